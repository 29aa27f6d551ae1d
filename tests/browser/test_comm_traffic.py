"""What the displays send to the page: few comms, and messages only when something has changed."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.conftest import KEY
from tests.support.kernels import Kernel, kernel
from tests.support.scripted import Script, ScriptedServer, event, response, written

Messages = list[dict[str, Any]]


def heard(
    running: Kernel,
    until: Callable[[Messages], bool] = lambda found: True,
    quiet: float = 1.5,
    limit: float = 60.0,
) -> Messages:
    """What the kernel sends of comms, until they tell what is waited for and it has been quiet for so
    many seconds."""
    found: Messages = []
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            message = running.client.get_iopub_msg(timeout=quiet)
        except queue.Empty:
            if until(found):
                break
            continue
        if message["msg_type"].startswith("comm_"):
            found.append(message)
    return found


def stands(messages: Messages, status: str) -> bool:
    """Whether the job stands so, and what earlier ones took is known: then there is no more news."""
    return any(view["status"] == status and view["history"] for view in of(messages, "view"))


def of(messages: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The updates that tell of the trait ``name``."""
    states = [message["content"]["data"].get("state", {}) for message in messages]
    return [state[name] for state in states if name in state]


def test_two_comms_and_news_only(server: ScriptedServer) -> None:
    """A job opens two comms; each message after that tells of another status, a poll or the history, and
    between two polls there is none."""
    environment = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.base_url, "BGMAGIC_POLL": "0.4"}
    with kernel(**environment) as running:
        running.ok("%load_ext bgmagic")
        server.polls = 5
        running.start("%%bgresponse -o x\nWhy?")
        messages = heard(running, lambda found: "completed" in str(of(found, "view")[-1:]))
        assert [m["msg_type"] for m in messages].count("comm_open") == 2
        views = of([m for m in messages if m["msg_type"] == "comm_msg"], "view")
        assert [view["status"] for view in views][-1] == "completed"
        timeless = [{k: v for k, v in view.items() if k != "clock"} for view in views]
        assert all(a != b for a, b in itertools.pairwise(timeless))
        polls = server.count("retrieve")
        assert polls >= 6
        assert len(views) <= polls + 5, [view["status"] for view in views]
        server.polls = 10**6
        running.start("%%bgresponse -o y --poll 80\nWhy?")
        heard(running, lambda found: stands(found, "queued"))
        assert heard(running, quiet=2.5) == []


def test_preview_ten_times_a_second(server: ScriptedServer) -> None:
    """However fast the words come, the page is told at most ten times a second, and at last of all."""
    beats = [threading.Event() for _ in range(300)]
    pieces = [f"w{n} " for n in range(len(beats))]

    def streamed(rid: str) -> list[Any]:
        begun, going, *deltas = written(rid, pieces)[:-1]
        paced = [item for pair in zip(deltas, beats, strict=True) for item in pair]
        return [begun, going, *paced, threading.Event()]

    server.stream, server.polls = streamed, 10**6
    environment = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.base_url}
    with kernel(**environment) as running:
        running.ok("%load_ext bgmagic")
        running.start("%%bgresponse -o x --stream --poll 80\nWhy?")
        heard(running, lambda found: stands(found, "in_progress"))
        begun = time.monotonic()
        for beat in beats:
            beat.set()
            time.sleep(0.01)  # the server's pace: a hundred words a second
        messages = heard(running, lambda found: "w299 " in str(of(found, "preview")[-1:]))
        took = time.monotonic() - begun - 1.5  # it was quiet for so long
        told = of(messages, "preview")
        assert of(messages, "view") == []  # all else stands still
        assert told[-1]["text"].endswith("w299 ")
        assert 3 <= len(told) <= 10 * took + 2, (len(told), took)


def test_answer_from_the_journal_after_a_restart(
    server: ScriptedServer, lasting: dict[str, str]
) -> None:
    """%bgjobs NAME shows the answer rendered, in a kernel that never had the job, without a call; so do a
    failure and an unknown job, whose Send again works there, too."""
    server.ending = lambda rid, body: (
        response(rid, "failed", error={"code": "server_error", "message": "Broke."})
        if "Fail" in str(body)
        else response(rid, "completed", "It is **so**.")
    )
    with kernel(**lasting) as first:
        first.ok("%load_ext bgmagic")
        first.ok("%%bgresponse -o x --wait\nWhy?")
        first.ok("%%bgresponse -o y --wait\nFail.")
        server.enqueue("create", Script(reset="after"))
        first.ok("%%bgresponse -o z --wait\nWhat?")
    before = len(server.seen)
    with kernel(**lasting) as second:
        second.ok("%load_ext bgmagic")
        answer, footer = second.ok("%bgjobs x").displays
        assert "<strong>so</strong>" in answer["text/html"]
        assert "gpt-5.2-true" in footer["text/html"]
        assert "Server_error" not in str(second.ok("%bgjobs y").displays)
        assert "server_error: Broke." in second.ok("%bgjobs y").displays[0]["text/html"]
        shown = second.ok("%bgjobs z").displays
        assert "application/vnd.jupyter.widget-view+json" in shown[0]
        assert len(server.seen) == before
        second.ok("%bgattach z")
        second.ok("z.card._handle_custom_msg({'action': 'resend'}, [])")
        second.until("isinstance(z, str)")
        assert second.value("str(z)") == "'It is **so**.'"
        assert server.count("create") == 4


def test_events_of_reasoning_are_no_text(server: ScriptedServer) -> None:
    """Reasoning summaries are shown apart from the output, without their Markdown."""
    thought = event("response.reasoning_summary_text.delta", 2, delta="**Check.** Then this.")
    server.stream = lambda rid: [*written(rid, ["So "])[:2], thought, threading.Event()]
    server.polls = 10**6
    with kernel(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=server.base_url) as running:
        running.ok("%load_ext bgmagic")
        running.ok("%%bgresponse -o x --stream --poll 80\nWhy?")
        running.until("x.card.preview")
        assert running.value("x.card.preview") == "{'reasoning': 'Check. Then this.'}"
