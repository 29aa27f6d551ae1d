"""Fifty thousand requests in a batch: what they cost the cell, the memory, and the cell beside them.

The server is a process of its own, with answers of 2 kB. What a cell can lose at most is told by the
CPU that all threads take while it computes. Beside the memory stands what one would hold instead: a
list of the parsed lines.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.benchmarks.load import _cell, _memory, _until
from tests.benchmarks.measures import KEY, Row, _received

WORDS = [f"{chr(97 + n % 26)}{n:x}" for n in range(2000)]

ANSWER = 2000  # characters

CELL = 8.0  # seconds that the computing cell takes alone


def _beside(rounds: int) -> float:
    """What a computing cell would take, in shares of its own CPU, on a machine with nothing else to do:
    all CPU that this process takes meanwhile, each moment of which could hold the interpreter."""
    all_threads = time.process_time()
    own = _cell(rounds)[1]
    return (time.process_time() - all_threads) / own


def _text(custom_id: str) -> str:
    pick = random.Random(custom_id)
    return " ".join(pick.choices(WORDS, k=ANSWER // 5))[:ANSWER]


def result(custom_id: str, body: Any) -> dict[str, Any]:
    """The line of a request, as the API writes it."""
    from tests.support.batching import answer_of

    line = answer_of(custom_id, body)
    line["response"]["body"]["output"][0]["content"][0]["text"] = _text(custom_id)
    return line


def _serve(pipe: Connection) -> None:
    from tests.support.scripted import ScriptedServer

    with ScriptedServer() as server:
        server.batching.polls, server.batching.result = 10**9, result
        pipe.send(server.base_url)
        while (told := pipe.recv()) != "stop":
            if told == "end":
                for key in server.batching.batches:
                    server.batching.end(key)
            pipe.send(server.count("batch_poll"))


def _ours(url: str, count: int, server: Connection, pipe: Connection) -> None:
    os.environ.update(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=url, BGMAGIC_POLL="1")

    def ask(told: str) -> Any:
        server.send(told)
        return server.recv()

    with tempfile.TemporaryDirectory() as folder:
        os.environ["BGMAGIC_JOURNAL"] = str(Path(folder) / "journal.sqlite3")
        import bgmagic
        from bgmagic.submission.app import app

        found: dict[str, float] = {}
        warm = bgmagic.map("Warm {{ item }}", [1, 2], batch=True)
        _until(lambda: ask("polls") > 1)
        ask("end")
        _until(warm.done)
        memory, rounds = _memory(), int(2_000_000 * CELL / _cell(2_000_000)[0])

        items = list(range(count))
        begun = time.perf_counter()
        group = bgmagic.map("Say {{ item }}", items, batch=True, yes=count)
        found["prompt"] = time.perf_counter() - begun
        found["rendering"] = _beside(rounds)
        polled = ask("polls")
        _until(lambda: ask("polls") > polled, 0.2)
        found["sent"] = time.perf_counter() - begun
        found["flight"] = _memory() - memory
        ask("end")
        _until(lambda: any(job.done() for job in group.jobs), 0.05)
        found["collecting"] = _beside(rounds)
        found["bound"] = sum(job.done() for job in group.jobs)
        begun = time.perf_counter()
        left = count - found["bound"]
        _until(lambda: all(job.done() for job in group.jobs), 0.2)
        found["rate"] = left / (time.perf_counter() - begun)
        failed = [job.error for job in group.jobs if job.error is not None]
        if failed:
            raise RuntimeError(f"{len(failed)} jobs failed, as with {failed[0]}")
        found["memory"] = _memory() - memory
        app.manager.close(10)
    pipe.send(found)


def _theirs(count: int, pipe: Connection) -> None:
    line = json.dumps(result("0" * 32, {"input": [{"role": "user", "content": "Say 1"}]}))
    memory = _memory()
    kept = []
    for number in range(count):
        one = json.loads(line)
        one["response"]["body"]["output"][0]["content"][0]["text"] = _text(str(number))
        kept.append(one)
    pipe.send({"memory": _memory() - memory})


def _measured(target: Any, *arguments: Any) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = multiprocessing.Pipe()
    process = context.Process(target=target, args=(*arguments, theirs))
    process.start()
    found: dict[str, float] = _received(ours, process)
    process.join()
    return found


def batches(count: int = 50_000) -> Iterator[Row]:
    """A large batch, from its cell to its last answer."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = multiprocessing.Pipe()
    server = context.Process(target=_serve, args=(theirs,))
    server.start()
    url = pipe.recv()
    found = _measured(_ours, url, count, pipe)
    pipe.send("stop")
    server.join()
    held = _measured(_theirs, count)["memory"]
    what = f"{count:,} in a batch: "
    dicts = f"list of dicts {held:+.0f} MiB"
    yield Row(f"{what}until the prompt is back", f"{found['prompt'] * 1000:.0f} ms", "", "100 ms")
    yield Row(f"{what}written down, uploaded and polled", f"{found['sent']:.1f} s", "", "")
    yield Row(
        f"{what}CPU of all threads over that of a cell of {CELL:g} s, while they are written and sent",
        f"{found['rendering']:.3f}x", "", "at most 1.02x",
    )  # fmt: skip
    yield Row(
        f"{what}the same while results come ({found['bound']:,.0f} bound meanwhile)",
        f"{found['collecting']:.3f}x", "", "at most 1.02x",
    )  # fmt: skip
    yield Row(f"{what}answers bound, no cell beside", f"{found['rate']:,.0f} a second", "", "")
    yield Row(f"{what}memory in flight", f"{found['flight']:+.0f} MiB", "", "")
    yield Row(
        f"{what}memory with all answers of 2 kB", f"{found['memory']:+.0f} MiB", dicts,
        f"at most {held / 4:+.0f} MiB",
    )  # fmt: skip
