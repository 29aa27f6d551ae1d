"""A response as it is written: the preview, drops, and that the answer is the same as by polling."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.api.request import Request
from bgmagic.api.response import decompressed
from bgmagic.display.listing import previewed
from bgmagic.jobs.outcome import JobUnknown, NoAnswer
from bgmagic.runtime.manager import JobManager
from bgmagic.transport.streaming import decode_events
from tests.jobs.test_job import LIMIT, SOON, eventually
from tests.support.kernels import kernel
from tests.support.scripted import DROP, Script, ScriptedServer, event, response, written

Ask = Callable[..., Request]
PIECES = ["The ", "weakest ", "step ", "is ", "the ", "third."]
SELDOM = 80.0  # seconds between polls: what comes sooner came by the stream


def collected(body: bytes, cuts: list[int]) -> list[str]:
    """What `texts` makes of ``body`` when it comes in chunks cut at ``cuts``."""

    async def chunks() -> AsyncIterator[bytes]:
        places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
        for start, end in itertools.pairwise(places):
            yield body[start:end]

    async def run() -> list[str]:
        return [text async for text in decode_events(chunks())]

    return asyncio.run(run())


@given(
    data=st.lists(st.text(max_size=20), max_size=5),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(0, 10**4), max_size=8),
)
def test_events_however_they_are_cut(data: list[str], line_end: str, cuts: list[int]) -> None:
    """Events arrive whole, whatever their line ends and wherever the network cuts the bytes."""
    sent = [json.dumps({"delta": text}, ensure_ascii=False) for text in data]
    lines = [f"event: x{line_end}: comment{line_end}data: {text}{line_end * 2}" for text in sent]
    # A lone carriage return at the very end may still become a line break: one more byte tells.
    assert collected(("".join(lines) + ":").encode(), cuts) == sent


@given(body=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=5))
def test_any_bytes_are_read(body: bytes, cuts: list[int]) -> None:
    """Whatever bytes a server sends, reading them as events gives the same, however they are cut."""
    assert collected(body, cuts) == collected(body, [])


def test_text_grows_and_the_answer_is_the_polled_one(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """With stream, job.text grows as the text is written, and the answer is there at the server's end,
    long before the next poll."""
    go = threading.Event()
    pointed.stream = lambda rid: written(rid, PIECES, go, after=3)
    job = manager.submit(ask(stream=True), poll_interval=SELDOM)
    eventually(lambda: job.text == "The weakest step ")
    assert job.status == "in_progress"
    assert not job.done()
    go.set()
    assert job.result(LIMIT) == "".join(PIECES)
    assert pointed.count("create") == 1
    # To the byte what the job holds, as without a stream; the SDK's own JSON has other spaces.
    assert pointed.seen[0].headers["content-length"] == str(len(job.request.text.encode()))
    assert pointed.seen[0].body["stream"] is True
    assert decompressed(job.record.response) == pointed.responses["resp_1"]


def test_drop_is_resumed_after_the_last_event(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A stream that drops goes on after the last event, and no piece comes twice."""
    seen: list[str] = []
    go = threading.Event()
    pointed.stream = lambda rid: written(rid, PIECES, DROP, go, after=2)
    job = manager.submit(ask(stream=True), poll_interval=SELDOM)
    job.add_listener(lambda told: seen.append(told.text))
    eventually(lambda: any("starting_after=3" in seen.path for seen in list(pointed.seen)))
    go.set()
    assert job.result(LIMIT) == "".join(PIECES)
    assert all("".join(PIECES).startswith(text) for text in seen)
    assert pointed.count("create") == 1


def test_server_that_begins_anew(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """A server that ignores starting_after, or numbers nothing, doubles no text in the preview."""
    texts: list[str] = []

    def unnumbered(rid: str) -> list[Any]:
        items = written(rid, PIECES, DROP, go, after=4)
        return [
            {k: v for k, v in item.items() if k != "sequence_number"}
            if isinstance(item, dict)
            else item
            for item in items
        ]

    go = threading.Event()
    pointed.stream = unnumbered
    job = manager.submit(ask(stream=True), poll_interval=SELDOM)
    job.add_listener(lambda told: texts.append(told.text))
    eventually(lambda: any("stream=true" in seen.path for seen in list(pointed.seen)))
    go.set()
    assert job.result(LIMIT) == "".join(PIECES)
    assert all("".join(PIECES).startswith(text) for text in texts)


@pytest.mark.parametrize("refusal", [400, 404, 500], ids=str)
def test_polls_carry_on_where_nothing_streams(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, refusal: int
) -> None:
    """A server that will not stream again is polled, and the answer is the same."""
    told = {"error": {"message": "can no longer be streamed", "type": "x"}}
    pointed.stream = lambda rid: written(rid, PIECES[:2], DROP, ending="in_progress")
    pointed.choose = lambda kind: Script()
    pointed.enqueue("retrieve", *[Script(status=refusal, json=told)] * 3)
    job = manager.submit(ask(stream=True), poll_interval=SOON)
    assert job.result(LIMIT)
    assert pointed.count("create") == 1


def test_server_that_answers_with_json(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A server that answers a streamed create with a plain response object is polled."""
    job = manager.submit(ask(stream=True), poll_interval=SOON)
    assert job.result(LIMIT) == "the answer"


STREAM = {"content-type": "text/event-stream"}


def as_events(events: list[dict[str, Any]]) -> Script:
    """A whole stream as the answer to a request that asked for none."""
    lines = [f"data: {json.dumps(one)}\n\n" for one in events]
    return Script(body="".join(lines).encode(), headers=STREAM)


def test_server_that_streams_unasked(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A server that streams wherever `stream` is not said to be false, and keeps nothing, is understood: what its last response object says is the answer, be it of the first job or a later one; one that broke off is asked for by its id."""
    pointed.always["retrieve"] = Script(status=404, json={"detail": "Not Found"})
    for rid in ("resp_a", "resp_b"):
        pointed.enqueue("create", as_events(written(rid, PIECES)))
        job = manager.submit(ask(), poll_interval=SELDOM)
        assert (job.result(LIMIT), job.response_id) == ("".join(PIECES), rid)
        assert job.record.notes == ()
    assert [seen.kind for seen in pointed.seen] == ["create", "create"]
    pointed.always["retrieve"] = Script(json=response("resp_c", "completed", "as polled"))
    pointed.enqueue("create", as_events(written("resp_c", PIECES)[:-1]))
    assert manager.submit(ask(), poll_interval=SOON).result(LIMIT) == "as polled"
    busy = event("error", 0, message="The queue is full.", code=None)
    pointed.enqueue("create", as_events([busy]))
    told = str(manager.submit(ask()).exception(LIMIT))
    assert "answered with an error: The queue is full." in told
    assert "{" not in told


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"data: {}\n\n",
        b'data: {"type": "error", "message": "busy"}\n\n',
        b"data: [DONE]\n\n",
        b'data: {"response": {"status": "queued"}}\n\n',
    ],
    ids=["nothing", "no response", "error", "done", "no id"],
)
def test_stream_without_a_response_is_unknown(
    manager: JobManager, pointed: ScriptedServer, ask: Ask, body: bytes, streamed: bool
) -> None:
    """A create whose stream, asked for or not, drops before its response id ends as unknown, and is not sent again."""
    pointed.enqueue("create", Script(body=body, headers=STREAM))
    job = manager.submit(ask(stream=streamed), poll_interval=SOON)
    assert isinstance(job.exception(LIMIT), JobUnknown)
    assert pointed.count("create") == 1


def test_other_events_may_come_first(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """Events of unknown kinds before the response, such as keepalive, are passed over, and so is a response that has no id yet."""
    unnamed = event("response.created", None, response={"id": None, "status": "queued"})
    pointed.stream = lambda rid: [event("keepalive", None), unnamed, *written(rid, PIECES)]
    job = manager.submit(ask(stream=True), poll_interval=SELDOM)
    assert job.result(LIMIT) == "".join(PIECES)


def test_refused_stream_is_not_accepted(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """A refusal of a streamed create is one like any other: certainly not accepted, in its words."""
    told = {"error": {"message": "no such model", "type": "x"}}
    pointed.enqueue("create", Script(status=400, json=told))
    job = manager.submit(ask(stream=True), poll_interval=SOON)
    assert "no such model" in str(job.exception(LIMIT))
    assert job.status == "failed"


def test_previews_are_few(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """A thousand pieces in a burst become a handful of updates; the last has all of them."""
    pieces = [f"{n} " for n in range(1000)]
    previews: list[str] = []
    pointed.stream = lambda rid: written(rid, pieces)
    job = manager.submit(ask(stream=True), poll_interval=SELDOM)
    job.add_listener(lambda told: previews.append(told.text))
    assert job.result(LIMIT) == "".join(pieces)
    # Ten a second; a machine that takes ten seconds for this is busy elsewhere.
    assert len(set(previews)) < 100


def test_reasoning_is_apart(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """Reasoning summaries are kept apart from the text, their parts as paragraphs."""
    go = threading.Event()

    def stream(rid: str) -> list[Any]:
        kind = "response.reasoning_summary_text.delta"
        part = "response.reasoning_summary_part.added"
        thoughts = [
            event(part, 1),
            event(kind, 2, delta="First "),
            event(kind, 3, delta="this."),
            event(part, 4),
            event(kind, 5, delta="Then that."),
        ]
        begin = event("response.created", 0, response=response(rid, "in_progress"))
        done = event("response.completed", 6, response=response(rid, "completed", "Hm."))
        return [begin, *thoughts, go, done]

    pointed.stream = stream
    job = manager.submit(ask(stream=True), poll_interval=SELDOM)

    def reasoning() -> str:
        preview = job.record.preview
        return preview.reasoning if preview else ""

    eventually(lambda: reasoning() == "First this.\n\nThen that.")
    assert job.text == ""
    go.set()
    assert job.result(LIMIT) == "Hm."


def test_cancel_of_a_stream_keeps_its_text(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """Cancelled in mid-text, the job keeps what was written by then."""
    pointed.stream = lambda rid: written(rid, PIECES, threading.Event(), after=3)
    job = manager.submit(ask(stream=True), poll_interval=SOON)
    eventually(lambda: job.text == "The weakest step ")
    pointed.choose = lambda kind: (
        Script(json=response("resp_1", "cancelled")) if kind in ("cancel", "retrieve") else Script()
    )
    assert job.cancel()
    assert job.exception(LIMIT) is not None
    assert job.status == "cancelled"
    assert job.text == "The weakest step "


def test_embedded_server_streams(embedded: dict[str, str]) -> None:
    """On the embedded model a streamed job shows its text as it grows, and ends like a polled one."""
    with kernel(**embedded) as running:
        running.ok("%load_ext bgmagic\n%bglocal --tokens-per-second 60", limit=120)
        # In one cell: between two of them a busy machine may have it ended.
        running.ok(
            "line = '-o x --stream --max-output-tokens 120 --poll 80'\n"
            "get_ipython().run_cell_magic('bgresponse', line, 'Tell a story.')\n"
            "seen = set()\nx_job = x\nx_job.add_listener(lambda job: seen.add(job.text))"
        )
        running.ok("%bgwait x")
        assert int(running.value("len(seen)")) > 2
        assert running.value("x_job.text == max(seen, key=len)") == "True"


def test_commentary_is_apart(manager: JobManager, pointed: ScriptedServer, ask: Ask) -> None:
    """What a message of commentary says is no part of the text so far, nor of the answer."""
    go = threading.Event()
    delta, added = "response.output_text.delta", "response.output_item.added"

    def begun(number: int, index: int, phase: str) -> dict[str, Any]:
        item = {"type": "message", "id": f"m{index}", "phase": phase, "content": []}
        return event(added, number, output_index=index, item=item)

    whole = response("resp_1", "completed")
    whole["output"] = [
        {"type": "message", "phase": phase, "content": [{"type": "output_text", "text": text}]}
        for phase, text in (("commentary", "Let me see."), ("final_answer", "It is 3."))
    ]
    pointed.stream = lambda rid: [
        event("response.created", 0, response=response(rid, "queued")),
        begun(1, 0, "commentary"),
        event(delta, 2, output_index=0, delta="Let me "),
        event(delta, 3, output_index=0, delta="see."),
        begun(4, 1, "final_answer"),
        event(delta, 5, output_index=1, delta="It is"),
        go,
        event(delta, 6, output_index=1, delta=" 3."),
        event("response.completed", 7, response=whole),
    ]
    job = manager.submit(ask(stream=True), poll_interval=SELDOM)
    eventually(lambda: job.text == "It is")
    assert job.commentary == "Let me see."
    assert previewed(job.record) == {"text": "It is", "commentary": "Let me see."}
    go.set()
    answer = job.result(LIMIT)
    assert (answer, answer.commentary) == ("It is 3.", "Let me see.")


def test_streamed_text_that_the_response_lacks_is_told(
    manager: JobManager, pointed: ScriptedServer, ask: Ask
) -> None:
    """Where the stream had text and the response has none, the job says where that text is."""
    pointed.stream = lambda rid: [
        *written(rid, PIECES)[:-1],
        event("response.completed", 99, response=response(rid, "completed")),
    ]
    job = manager.submit(ask(stream=True), poll_interval=SELDOM)
    told = "the response has no text; what was streamed before is in .text, in this kernel only"
    with pytest.raises(NoAnswer, match=re.escape(told)):
        job.result(LIMIT)
    assert job.text == "".join(PIECES)
