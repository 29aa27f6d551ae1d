"""How soon after the server's end the answer is there, with --stream."""

from __future__ import annotations

import os
import statistics
import threading
import time
from typing import Any

from tests.benchmarks.measures import KEY, Row
from tests.support.scripted import ScriptedServer, written

TIMES = 20
PIECES = [f"word{n} " for n in range(200)]


class _Ends:
    """A server whose streams stand still before their last event until told to end."""

    def __init__(self, server: ScriptedServer) -> None:
        self.go: dict[str, threading.Event] = {}
        server.polls, server.stream = 10**9, self._stream

    def _stream(self, rid: str) -> list[Any]:
        self.go[rid] = threading.Event()
        return written(rid, PIECES, self.go[rid], after=len(PIECES))


def _ours(ends: _Ends) -> float:
    """Seconds from the server's end until the variable holds the answer."""
    from bgmagic.public import submit
    from bgmagic.submission.app import app
    from tests.support.shell import FakeShell

    namespace: dict[str, Any] = {}
    app.shell = FakeShell(namespace)
    job = submit("Why?", out="x", stream=True, poll=80, again=True)
    while not job.text.endswith("word199 "):
        time.sleep(0.01)
    begun = time.perf_counter()
    ends.go[str(job.response_id)].set()
    while namespace["x"] is job:
        time.sleep(0.0005)
    return time.perf_counter() - begun


def _theirs(ends: _Ends) -> float:
    """The same for the SDK's own stream, read in a loop that blocks."""
    import openai

    with openai.OpenAI().responses.create(
        model="gpt-5.2", input="Why?", background=True, stream=True
    ) as stream:
        begun = 0.0
        for event in stream:
            if getattr(event, "delta", "") == "word199 ":
                begun = time.perf_counter()
                list(ends.go.values())[-1].set()
    return time.perf_counter() - begun


def stream_end() -> list[Row]:
    """A server that ends a stream; it looks each 10 ms whether it should, for both alike."""
    with ScriptedServer() as server:
        os.environ.update(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=server.base_url)
        os.environ["BGMAGIC_JOURNAL"] = ":memory:"
        ends = _Ends(server)
        _ours(ends), _theirs(ends)  # the first of each makes connections
        ours = [_ours(ends) * 1e3 for _ in range(TIMES)]
        theirs = [_theirs(ends) * 1e3 for _ in range(TIMES)]
    return [
        Row(
            f"variable bound after the server's end, --stream, median of {TIMES} (worst)",
            f"{statistics.median(ours):.0f} ms ({max(ours):.0f} ms)",
            f"the SDK's stream in a loop {statistics.median(theirs):.0f} ms ({max(theirs):.0f} ms)",
            "at most 200 ms",
        )
    ]


if __name__ == "__main__":
    print(stream_end())
