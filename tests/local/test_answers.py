"""What becomes of a response: states, text, limits, cancelling, deleting."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from jsonschema import Draft202012Validator

from bgmagic.local.conversations import Item, Prompt, pack_items
from bgmagic.local.engine import Engine, Generation
from bgmagic.local.request_body import CreateParams
from bgmagic.local.responses import ResponseStore
from tests.local.client import LONG, Client, text

MODEL = "SmolLM2-135M-Instruct"


def test_a_response_goes_from_queued_to_completed_with_text_and_usage(client: Client) -> None:
    """A create answers at once, and polling leads to the finished text with its token counts."""
    created = client.create()
    assert created["status"] in ("queued", "in_progress")
    assert created["usage"]["total_tokens"] == 0
    assert created["output"] == []
    done = client.wait(created["id"])
    assert done["status"] == "completed"
    assert "banana" in text(done).lower()
    assert done["completed_at"] >= done["created_at"]
    usage = done["usage"]
    assert usage["input_tokens"] > 10
    assert usage["output_tokens"] > 10
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_the_response_repeats_what_was_asked(client: Client) -> None:
    """The settings of a request come back in its response, as they do from the API."""
    asked = {
        "instructions": "Be brief.",
        "metadata": {"notebook": "a.ipynb"},
        "reasoning": {"effort": "high"},
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "max_output_tokens": 16,
        "temperature": 0.5,
        "top_p": 0.9,
    }
    created = client.create(**asked)
    client.cancel(created["id"])
    assert created["background"] is True
    assert created["tools"] == []
    for name, value in asked.items():
        if name == "reasoning":
            assert created[name]["effort"] == "high"
        else:
            assert created[name] == value


def test_gpt_names_are_accepted_and_the_true_name_is_returned(client: Client) -> None:
    """A notebook written for a gpt model runs unchanged and is told which model answered."""
    for name in ("gpt-5.2", "gpt-4.1-nano", MODEL):
        created = client.create(model=name)
        client.cancel(created["id"])
        assert created["model"] == MODEL


def test_max_output_tokens_ends_as_incomplete_with_the_text_so_far(client: Client) -> None:
    """The limit really ends the generation, and the partial text is kept."""
    done = client.answer(input=LONG, max_output_tokens=20)
    assert done["status"] == "incomplete"
    assert done["incomplete_details"] == {"reason": "max_output_tokens"}
    assert done["usage"]["output_tokens"] == 20
    assert len(text(done)) > 20
    assert done["output"][0]["status"] == "incomplete"
    assert done["completed_at"] is None


def test_earlier_turns_are_heard(client: Client) -> None:
    """A list of messages, as strings or as text parts, is read as one conversation."""
    turns = [
        {"role": "user", "content": "The secret word is plum. Remember it."},
        {
            "role": "assistant",
            "content": [{"type": "output_text", "text": "I will remember it: plum."}],
        },
        {"role": "user", "content": [{"type": "input_text", "text": "What is the secret word?"}]},
    ]
    assert "plum" in text(client.answer(input=turns, max_output_tokens=16)).lower()


def test_instructions_are_the_system_message(client: Client) -> None:
    """`instructions` and a developer message reach the model in the same way."""
    said = text(client.answer(input="What is your name?", instructions="Your name is Robby.",
                              max_output_tokens=16))  # fmt: skip
    assert "Robby" in said
    turns = [
        {"role": "developer", "content": "Your name is Robby."},
        {"role": "user", "content": "What is your name?"},
    ]
    assert text(client.answer(input=turns, max_output_tokens=16)) == said


def test_the_same_prompt_gives_the_same_text(client: Client) -> None:
    """An answer does not depend on what the model was asked before, not even on the same turns."""
    first = text(client.answer(max_output_tokens=60))
    turns = [
        {"role": "user", "content": "Name three fruits."},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "Name three colours."},
    ]
    client.answer(input="Hello", max_output_tokens=16)
    client.answer(input=turns, max_output_tokens=16)
    assert text(client.answer(max_output_tokens=60)) == first


def test_a_prompt_beyond_the_context_fails_and_says_so(client: Client) -> None:
    """Too long a prompt ends as failed, and the next one is answered as usual."""
    done = client.answer(input="the sea and the wind " * 2000)
    assert done["status"] == "failed"
    assert done["error"]["code"] == "invalid_prompt"
    assert done["error"]["message"].endswith("tokens, and 4096 fit.")
    assert done["output"] == []
    assert client.answer(max_output_tokens=16)["status"] == "incomplete"


def test_cancelling_stops_the_generation(client: Client) -> None:
    """A cancelled response keeps its partial text, grows no further and makes room."""
    running = client.create(input=LONG)["id"]
    client.wait(running, "in_progress")
    following = client.create(max_output_tokens=16)["id"]
    cancelled = client.cancel(running)
    assert cancelled["status"] == "cancelled"
    assert client.wait(following)["status"] == "incomplete"
    assert client.get(running) == cancelled
    assert cancelled["usage"]["output_tokens"] < 1000


def test_cancelling_while_the_prompt_is_read_stops_that_too(client: Client) -> None:
    """A prompt that takes many seconds to read is given up before two of them, of the processor's time."""
    process = psutil.Process(client.endpoint.pid)

    def worked() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    running = client.create(input="the sea and the wind " * 600)["id"]
    client.wait(running, "in_progress")
    before = worked()
    cancelled = client.cancel(running)
    assert worked() - before < 2
    assert cancelled["status"] == "cancelled"
    assert cancelled["output"] == []


def test_jobs_wait_for_their_turn_and_can_be_cancelled_there(client: Client) -> None:
    """The second of two jobs is queued, and cancelling it there leaves the first alone."""
    first = client.create(input=LONG)["id"]
    second = client.create()["id"]
    client.wait(first, "in_progress")
    assert client.get(second)["status"] == "queued"
    assert client.jobs() == {"queued": 1, "in_progress": 1}
    assert client.cancel(second)["status"] == "cancelled"
    assert client.get(first)["status"] == "in_progress"
    client.cancel(first)
    assert client.jobs() == {"queued": 0, "in_progress": 0}


def test_cancelling_again_or_too_late_changes_nothing(client: Client) -> None:
    """Cancel is idempotent, and returns a finished response as it is."""
    cancelled = client.create(input=LONG)["id"]
    assert client.cancel(cancelled) == client.cancel(cancelled)
    done = client.answer(max_output_tokens=16)
    assert client.cancel(done["id"]) == done


def test_a_deleted_response_is_gone(client: Client) -> None:
    """Delete says so and forgets the response; deleting one that runs stops it."""
    running = client.create(input=LONG)["id"]
    client.wait(running, "in_progress")
    reply = client.call("DELETE", f"/responses/{running}")
    assert reply.body == {"id": running, "object": "response", "deleted": True}
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
        reply = client.call(method, f"/responses/{running}{path}")
        assert reply.status == 404
        assert reply.error["message"] == f"Response with id '{running}' not found."
    assert client.answer(max_output_tokens=16)["status"] == "incomplete"


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    """The API's own description of a response."""
    path = Path(__file__).parents[1] / "data" / "responses.schema.json"
    definitions = json.loads(path.read_text("utf-8"))["$defs"]
    return Draft202012Validator({"$ref": "#/$defs/Response", "$defs": definitions})


def test_every_state_of_a_response_fits_the_api_description(
    client: Client, schema: Draft202012Validator
) -> None:
    """Queued, in progress and the four terminal states validate against OpenAI's OpenAPI."""
    first = client.create(input=LONG)
    second = client.create(input=LONG)
    states = [client.wait(first["id"], "in_progress"), client.get(second["id"])]
    states += [client.cancel(first["id"]), client.cancel(second["id"])]
    states += [client.answer(max_output_tokens=16), client.answer(instructions="Be brief.")]
    states += [client.answer(input="the sea and the wind " * 2000)]
    seen = {state["status"] for state in states}
    assert seen == {"queued", "in_progress", "cancelled", "incomplete", "completed", "failed"}
    for state in states:
        problems = [f"{error.json_path}: {error.message}" for error in schema.iter_errors(state)]
        assert problems == []


def asked(content: str) -> CreateParams:
    """The params of a create with that input."""
    return CreateParams(Prompt(pack_items([Item("user", (content,))])), None, 0.0, 1.0, {})


class Scripted(Engine):
    """An engine without a model, which answers at once."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def generate(
        self, messages: Sequence[Any], *, on_text: Callable[[str], bool], **_: Any
    ) -> Generation:
        self.threads.add(threading.get_ident())
        on_text("done")
        return Generation("stop", 1, 1)


def test_only_so_many_finished_responses_are_kept() -> None:
    """Memory is bounded: the oldest finished responses are dropped."""

    async def run() -> None:
        responses = ResponseStore(Scripted(), kept=3)
        work = asyncio.create_task(responses.work())
        params = asked("x" * 1000)
        made = [responses.create(params) for _ in range(10)]
        for response in made:
            await asyncio.wait_for(response.settled.wait(), 60)
        await asyncio.sleep(0)
        known = [response.id for response in made if responses.get(response.id)]
        assert known == [response.id for response in made[-3:]]
        work.cancel()

    asyncio.run(run())


def test_a_failure_of_the_engine_fails_only_that_response() -> None:
    """An error inside the engine becomes a failed response, and the queue goes on."""

    class Broken(Scripted):
        def generate(self, messages: Sequence[Any], **options: Any) -> Generation:
            if messages[0]["content"] == "break":
                raise RuntimeError("secret detail")
            return super().generate(messages, **options)

    async def run() -> None:
        responses = ResponseStore(Broken())
        work = asyncio.create_task(responses.work())
        asks = [asked(content) for content in ("break", "x")]
        bad, good = (responses.create(params) for params in asks)
        await asyncio.wait_for(good.settled.wait(), 60)
        assert bad.json()["error"]["code"] == "server_error"
        assert "secret" not in json.dumps(bad.json())
        assert good.status == "completed"
        work.cancel()

    asyncio.run(run())


@pytest.mark.parametrize("question", ["Is an ant an animal?", "Write a ```json block, please."])
def test_an_answer_fits_its_schema(client: Client, question: str) -> None:
    """With a JSON schema the answer is JSON that fits it, and nothing around it."""
    schema = {
        "type": "object",
        "properties": {"animal": {"type": "boolean"}, "legs": {"enum": [4, 6]}},
        "required": ["animal", "legs"],
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "name": "ant", "schema": schema, "strict": True}
    done = client.answer(input=question, text={"format": shape})
    Draft202012Validator(schema).validate(json.loads(text(done)))
    assert done["text"]["format"] == shape


def test_a_schema_that_cannot_be_followed(client: Client) -> None:
    """A schema that llama.cpp does not understand makes the response fail; the next one is answered."""
    shape = {"type": "json_schema", "name": "x", "schema": {"$ref": "#/$defs/nowhere"}}
    failed = client.answer(text={"format": shape})
    assert failed["status"] == "failed"
    assert "nowhere" in failed["error"]["message"]
    assert client.answer(max_output_tokens=16)["output"]
