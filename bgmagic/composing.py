"""A prompt, its earlier turns and the settings become a request, or a draft of one.

What waits for nothing is a request at once; else the draft says what is still to come. Sending is
submission.py's business.
"""

from __future__ import annotations

from dataclasses import dataclass

from bgmagic.conversation import Earlier
from bgmagic.draft import Draft
from bgmagic.errors import BadInput
from bgmagic.extras import fields, parts
from bgmagic.job import Job
from bgmagic.options import Settings
from bgmagic.prompt import messages as as_messages
from bgmagic.request import Request, build_request
from bgmagic.template import Filled, Inserted


@dataclass(frozen=True)
class Composed:
    """What is to be sent.

    Attributes:
        request: the request; with a draft, as far as it is known.
        draft: what is still to go into it, or None.
        needs: the running jobs that it waits for.
        inserted: what the prompt's expressions became.
        note: what the user should be told, or "".
    """

    request: Request
    draft: Draft | None = None
    needs: tuple[Job, ...] = ()
    inserted: tuple[Inserted, ...] = ()
    note: str = ""

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The names of the jobs that it waits for."""
        return tuple(job.name or job.response_id or "another job" for job in self.needs)


def compose(filled: Filled, settings: Settings, earlier: Earlier | None = None) -> Composed:
    """Put a request together.

    Raises:
        BadInput: the prompt is empty, or one of the settings can't be used.
    """
    earlier = earlier or Earlier()
    if settings.messages is not None and (earlier.messages or earlier.after):
        raise BadInput("--messages and --continue both give the turns before; give one of them")
    after, continues = earlier.after, None
    needs = [after] if after is not None and earlier.waits else []
    needs += [job for job in filled.needs if job is not after]
    messages, instructions = earlier.messages, earlier.instructions
    if after is not None and needs:
        continues = after.record.key
    elif after is not None:
        answer = after.result(0)
        messages, instructions = tuple(answer.conversation), answer.instructions
    request = build_request(
        as_messages(
            filled.text,
            settings.messages if earlier == Earlier() else list(messages),
            parts(settings),
        ),
        model=settings.model,
        effort=settings.effort,
        verbosity=settings.verbosity,
        instructions=instructions if settings.instructions is None else settings.instructions,
        max_output_tokens=settings.max_output_tokens,
        params=settings.param,
        stream=settings.stream,
        **fields(settings),
    )
    draft = Draft.of(filled, continues) if needs else None
    return Composed(request, draft, tuple(needs), filled.inserted, earlier.note)
