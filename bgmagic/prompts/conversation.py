"""Makes the messages of a request: earlier turns, and the cell's text as the last user turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bgmagic.api.request import Previous, hash_of
from bgmagic.api.request_body import plain_json, reading
from bgmagic.errors import BadInput
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.outcome import Detached
from bgmagic.prompts.template import PartialPrompt
from bgmagic.text import kind_of
from bgmagic.values import dataclass

ROLES = ("user", "assistant", "system", "developer")

_SHAPE = 'a list like [{"role": "user", "content": [{"type": "input_text", "text": "…"}]}]'


def user_message(text: str, attached: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Make the user's message of ``text``, with the parts ``attached`` after it."""
    return {"role": "user", "content": [{"type": "input_text", "text": text}, *attached]}


def request_messages(
    text: str, earlier: object = None, attached: Sequence[Mapping[str, Any]] = ()
) -> list[Mapping[str, Any]]:
    """Make the input: the turns of ``earlier``, if any, and ``text`` as the last user turn.

    Args:
        earlier: a list of messages as the API takes it (``role`` and ``content``), or of its other
            input items, which carry a ``type``; passed on as they are, but for an assistant's turns
            in the short form (``output_text`` parts without id and status), which not all servers
            take: of those the text is sent, see `assistant_turn`.
        attached: further parts of the last user turn.

    Raises:
        BadInput: the text is empty, or ``earlier`` is not such a list.
    """
    if not text.strip():
        raise BadInput("the cell is empty: write the prompt below the %%bgresponse line")
    return [*_checked(earlier), user_message(text, attached)]


def _checked(earlier: object) -> list[Mapping[str, Any]]:
    if earlier is None:
        return []
    with reading("--messages", earlier):
        if not isinstance(earlier, list | tuple):
            raise BadInput(f"--messages must be {_SHAPE}, not {kind_of(earlier)}")
        items = []
        for place, item in enumerate(earlier):
            where = f"--messages, item {place}"
            if not isinstance(item, Mapping):
                raise BadInput(f"{where} is {kind_of(item)}; it must be {_SHAPE}")
            items.append(plain_json(item, where))
            _check_item(items[-1], where)
        return [_portable(item) for item in items]


def _portable(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """An assistant's turn in the short form as all servers take it; anything else as it is."""
    short = item.get("role") == "assistant" and not item.keys() & {"id", "status"}
    content = item.get("content")
    if (
        not short
        or item.get("type", "message") != "message"
        or not isinstance(content, list | tuple)
    ):
        return item
    texts = [part.get("text") for part in content if part.get("type") == "output_text"]
    known = item.keys() <= {"type", "role", "content", "phase"}
    if known and len(texts) == len(content) and all(isinstance(text, str) for text in texts):
        return {**item, "type": "message", "content": "".join(texts)}
    return {**item, "type": "message"}  # a refusal, say: with the type vLLM and llama.cpp take it


def _check_item(item: Mapping[str, Any], where: str) -> None:
    if item.get("type", "message") != "message":
        return
    if item.get("role") not in ROLES:
        role = item.get("role")
        raise BadInput(f"{where} has the role {role!r}; allowed are {', '.join(ROLES)}")
    content = item.get("content")
    if not isinstance(content, str | list | tuple) or not content:
        raise BadInput(f"{where} has no content: give a text or a list of parts")
    if not isinstance(content, str):
        for part in content:
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                raise BadInput(
                    f"{where}: a content part needs a type, as in "
                    '{"type": "input_text", "text": "…"} (an assistant\'s is "output_text")'
                )


@dataclass(frozen=True)
class History:
    """The earlier turns of a conversation.

    Attributes:
        messages: those that are known now, as the API takes them.
        instructions: the system text that they were sent with.
        after: the job whose conversation comes before these messages, or None.
        previous: what the server has already of these messages, or None.
        note: a line for the user about where the conversation goes on, or "".
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    instructions: str | None = None
    after: Job | None = None
    note: str = ""
    previous: Previous | None = None

    @property
    def waits(self) -> bool:
        """Whether that job is still running."""
        return self.after is not None and not self.after.done()


def history(held: Any, name: str, find: Callable[[str], Job | None]) -> History:
    """Find the conversation that an answer or a job ends.

    If that turn has no answer, find the conversation before it.

    Args:
        held: what the variable ``name`` holds.
        find: gives a job by its key, or None.

    Raises:
        BadInput: it holds neither, or there is no answer to go on from.
    """
    # Told by the type: what only says that it is a job has nothing of one.
    is_answer = issubclass(type(held), Answer)
    if is_answer and held.job is None:
        return History(tuple(held.conversation), held.instructions)
    job: Job = held.job if is_answer else held
    if not issubclass(type(job), Job):
        raise BadInput(
            f"--continue {name}: it holds {kind_of(held)}, no answer of a job; earlier turns of "
            "your own go in with --messages"
        )
    if job.request.is_empty or job.record.is_unrendered:
        raise BadInput(
            f"--continue {name}: it was attached by its id, so what was asked is not known here; "
            "give the turns with --messages"
        )
    if not job.done() or job.error is None:
        return History(after=job)
    if isinstance(job.error, Detached):
        raise BadInput(f"--continue {name}: {job.error}; %bgattach {name} follows it again")
    return _before(job, name, find)


def check_all_turns_known(job: Job) -> None:
    """Check that the conversation up to the answer of ``job`` can be sent whole.

    Raises:
        BadInput: its first turns are known to the server alone.
    """
    body, ways = job.request.body, {}
    held = body.get("conversation")
    ways["conversation"] = held.get("id") if isinstance(held, dict) else held
    ways["previous_response_id"] = body.get("previous_response_id") and job.response_id
    for field, way in ways.items():
        if way:
            raise BadInput(
                f"--continue {job.name or job.response_id}: it went on from turns that only its "
                f"server has, and all would have to be sent; --param {field}={way} goes on there"
            )


def _before(job: Job, name: str, find: Callable[[str], Job | None]) -> History:
    """Find the conversation before the turn of ``job``, which has no answer."""
    note = f"{name} is {job.status}; this goes on from the answer before it"
    partial, body = job.record.partial, job.request.body
    messages = tuple(body["input"][:-1])
    continues = None if partial is None else PartialPrompt(partial).continues
    if continues is not None:
        before = find(continues)
        if before is not None:
            found = history(before, name, find)
            return replace(found, note=note)
    elif messages:
        previous = job.request.previous
        return History(messages, body.get("instructions"), note=note, previous=previous)
    raise BadInput(
        f"--continue {name}: it is {job.status}, and there is no answer before it to go on from; "
        f"run its own cell again"
    )


def history_of_running(job: Job, find: Callable[[str], Job | None]) -> History | None:
    """Find the turns before ``job``, the running turn of a conversation."""
    partial, body = job.record.partial, job.request.body
    continues = None if partial is None else PartialPrompt(partial).continues
    if continues is not None:
        before = find(continues)
        return None if before is None else History(after=before)
    messages = tuple(body.get("input", [])[:-1])
    if not messages:
        return None
    return History(messages, body.get("instructions"), previous=job.request.previous)


def continuation_id(after: Job | None) -> str | None:
    """The id that all turns of a conversation in a window share: the one that the turn before,
    ``after``, was sent with. Where this gives None, `build_request` makes it of the first
    message."""
    if after is None:
        return None
    body = after.request.body
    sent = (body.get("background_options") or {}).get("continuation_id")
    return sent or (hash_of(body["input"][0]) if body.get("input") else None)
