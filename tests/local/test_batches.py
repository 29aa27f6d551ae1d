"""Files and batches of the embedded server, by the SDK."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from bgmagic.local import batches, discovery
from bgmagic.local.engine import Generation
from tests.local.stage import Puppet, Stage, stage, until
from tests.support.kernels import kernel


class Echo(Puppet):
    """An engine that repeats the last message at once, and waits where that says so."""

    def generate(self, messages: Any, *, on_text: Any, **more: Any) -> Any:
        said = messages[-1]["content"]
        if said == "wait":
            return super().generate(messages, on_text=on_text, **more)
        on_text(f"echo: {said}")
        return Generation("stop", 3, 5)


def content_of(*texts: str, **fields: Any) -> bytes:
    """A file with a request for each text."""
    lines = [
        {
            "custom_id": f"r{number}", "method": "POST", "url": "/v1/responses",
            "body": {"model": "gpt-5.2", "input": told},
        } | fields
        for number, told in enumerate(texts)
    ]  # fmt: skip
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


async def begun(at: Stage, content: bytes, **fields: Any) -> Any:
    file = await at.sdk.files.create(file=("in.jsonl", content), purpose="batch")
    return await at.sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/responses", completion_window="24h", **fields
    )


async def ended(at: Stage, batch_id: str) -> Any:
    while True:
        found = await at.sdk.batches.retrieve(batch_id)
        if found.status not in batches.OPEN:
            return found
        await asyncio.sleep(0.01)


async def results(at: Stage, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    text = (await at.sdk.files.content(file_id)).text
    return {line["custom_id"]: line for line in map(json.loads, text.splitlines())}


def test_a_batch_from_upload_to_results() -> None:
    """What the SDK uploads is answered, line by line; a line that is refused is in the error file."""

    async def run() -> None:
        async with stage(puppet=Echo()) as at:
            content = content_of("a", "b") + content_of("c").replace(b"r0", b"r2").replace(
                b'"input"', b'"temperature": 9, "input"'
            )
            batch = await begun(at, content, metadata={"study": "x"})
            assert (batch.status, batch.metadata) == ("validating", {"study": "x"})
            found = await ended(at, batch.id)
            assert found.status == "completed"
            counts = found.request_counts
            assert (counts.total, counts.completed, counts.failed) == (3, 2, 1)
            good = await results(at, found.output_file_id)
            texts = [
                good[key]["response"]["body"]["output"][0]["content"][0]["text"] for key in good
            ]
            assert texts == ["echo: a", "echo: b"]
            bad = await results(at, found.error_file_id)
            assert bad["r2"]["response"]["status_code"] == 400
            listed = [one.id async for one in at.sdk.batches.list(limit=1)]
            assert listed == [batch.id]
            names = [one.filename async for one in at.sdk.files.list(purpose="batch")]
            assert names == ["in.jsonl"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{no json}\n", "invalid_json_line"),
        (b"", "empty_file"),
        (content_of("a", url="/v1/chat/completions"), "invalid_url"),
        (content_of("a", custom_id="x") * 2, "duplicate_custom_id"),
        (content_of("a") + content_of("b", custom_id="y", body={"model": "m"}), "mismatched_model"),
        (content_of("a", body={"model": "m", "background": True}), "invalid_request"),
    ],
)
def test_a_file_that_is_none_fails_the_batch(content: bytes, code: str) -> None:
    """What is wrong with the file is told by its line, and nothing is answered."""

    async def run() -> None:
        async with stage(puppet=Echo()) as at:
            found = await ended(at, (await begun(at, content)).id)
            assert found.status == "failed"
            assert found.errors.data[0].code == code

    asyncio.run(run())


def test_a_cancelled_batch_keeps_what_is_done() -> None:
    """Cancelling stops what runs; the done ones are in the output file, the others in the error file."""

    async def run() -> None:
        async with stage(puppet=Echo()) as at:
            batch = await begun(at, content_of("a", "wait", "c"))
            await until(lambda: at.puppet.heard)
            assert (await at.sdk.batches.cancel(batch.id)).status == "cancelling"
            found = await ended(at, batch.id)
            assert found.status == "cancelled"
            assert set(await results(at, found.output_file_id)) == {"r0"}
            left = await results(at, found.error_file_id)
            assert {key: one["error"]["code"] for key, one in left.items()} == dict.fromkeys(
                ("r1", "r2"), "batch_cancelled"
            )
            with pytest.raises(openai.ConflictError):
                await at.sdk.batches.cancel(batch.id)

    asyncio.run(run())


def test_a_batch_expires() -> None:
    """What is not done within the window is in the error file, what is done in the output file."""

    async def run() -> None:
        async with stage(puppet=Echo()) as at:
            store = batches.BatchShelf(at.state.responses, "puppet", window=0.2)
            file = store.add(batches.File("in.jsonl", "batch", content_of("a", "wait", "c")))
            batch = store.create(
                {"input_file_id": file.id, "endpoint": "/v1/responses", "completion_window": "24h"}
            )
            await until(lambda: batch.status == "expired")
            done = store.file(str(batch.output_file_id)).content
            left = store.file(str(batch.error_file_id)).content
            assert b'"r0"' in done
            assert left.count(b"batch_expired") == 2

    asyncio.run(run())


def test_a_file_is_read_from_a_byte_on() -> None:
    """A range gives the rest of a file, as one that broke off is read on; a range and an upload that are
    none are no failure of the server."""

    async def run() -> None:
        async with stage(puppet=Echo()) as at:
            content = content_of("a")
            file = await at.sdk.files.create(file=("in.jsonl", content), purpose="batch")
            read = at.sdk.files.with_raw_response.content
            part = await read(file.id, extra_headers={"Range": "bytes=7-"})
            assert (part.http_response.status_code, part.content) == (206, content[7:])
            part = await read(file.id, extra_headers={"Range": f"bytes={'9' * 5000}-"})
            assert (part.http_response.status_code, part.content) == (200, content)
            form = {"Content-Type": "multipart/form-data; boundary=a"}
            refused = await at.sdk._client.post(
                f"{at.sdk.base_url}files", content=b"x", headers=at.sdk.auth_headers | form
            )
            assert (refused.status_code, "no multipart" in refused.text) == (400, True)

    asyncio.run(run())


def test_a_batch_takes_all_places() -> None:
    """As many requests of a batch are answered at a time as there are generations at a time; what is
    done is counted while it goes on, and each result is that of its request."""

    async def run() -> None:
        async with stage(puppet=Echo(), parallel=3) as at:
            batch = await begun(at, content_of(*["wait"] * 5, "a"))
            await until(lambda: len(at.puppet.heard) == 3)
            assert [at.state.responses.count(each) for each in ("in_progress", "queued")] == [3, 0]
            at.puppet.say("one")
            at.puppet.end()
            await until(lambda: len(at.puppet.heard) == 4)
            counts = (await at.sdk.batches.retrieve(batch.id)).request_counts
            assert (counts.total, counts.completed, counts.failed) == (6, 1, 0)
            for _ in range(4):
                at.puppet.end()
            found = await ended(at, batch.id)
            assert (found.status, found.request_counts.completed) == ("completed", 6)
            good = await results(at, found.output_file_id)
            assert good.keys() == {f"r{number}" for number in range(6)}
            last = good["r5"]["response"]["body"]["output"]
            assert last[0]["content"][0]["text"] == "echo: a"

    asyncio.run(run())


ASKED = """
%load_ext bgmagic
%bglocal
questions = [f"question {number}" for number in range(200)]
"""


def test_a_batch_of_200_without_a_key(empty_cache: Path) -> None:
    """A notebook without any key sends 200 questions to the embedded server as one batch, and has 200
    answers in their places."""

    def notebook() -> None:
        with kernel(BGMAGIC_CACHE=str(empty_cache), BGMAGIC_POLL="0.3") as one:
            assert "No key, no cost" in one.ok(ASKED).stdout
            one.ok("%%bgresponse -o study --each questions --batch --yes 200\n{{ item }}")
            waited = one.ok("%bgwait study --timeout 60s").said
            assert one.value("study.counts") == "{'completed': 200}", waited
            told = one.value("[str(answer).strip() for answer in study]")
            assert told == str([f"echo: question {number}" for number in range(200)])

    async def run() -> None:
        async with stage(puppet=Echo(), parallel=2) as at:
            discovery.write_endpoint(at.state.endpoint)
            await asyncio.to_thread(notebook)
            (batch,) = [one async for one in at.sdk.batches.list()]
            assert batch.request_counts.total == batch.request_counts.completed == 200

    asyncio.run(run())
