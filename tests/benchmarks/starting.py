"""What begins: imports, `%load_ext`, the first cell, the first POST, and a journal of 100,000 jobs."""

from __future__ import annotations

import compileall
import contextlib
import dataclasses
import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.benchmarks.measures import KEY, serving
from tests.support.kernels import kernel

STARTS = 5
WIDGETLESS = "1 + 1"  # a first cell that imports no ipywidgets
TYPING = 1.0  # seconds; what comes at once is a program's
ROWS = 100_000
OPEN = 1_000  # of them
REUSED = 1_000  # items of the sweep that takes its answers from there
NOTEBOOK = "/home/user/long.ipynb"  # of the open ones, and of the kernel that looks for them

SLOW = (
    600.0  # seconds for what an earlier build takes very long for, on a busy machine longer still
)

CLOCK = "import time; begun = time.perf_counter(); {}; print(time.perf_counter() - begun)"

POST = """
import time
begun = time.perf_counter()
import bgmagic
imported = time.perf_counter() - begun
sdk = time.perf_counter()
import openai
openai.AsyncOpenAI()  # with its first client it imports the rest
sdk = time.perf_counter() - sdk
begun = time.perf_counter()
job = bgmagic.submit("Why?")
while job.record.accepted_at is None:
    time.sleep(0.0005)
print(imported, time.perf_counter() - begun, sdk)
import os; os._exit(0)
"""


COMPUTES = """
import time
begun = time.perf_counter()
while x.record.accepted_at is None:
    for number in range(20_000):
        number += 1
print(time.perf_counter() - begun)
"""


def _process(code: str, **env: str) -> list[float]:
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(word) for word in ended.stdout.split()]


def figures() -> dict[str, float]:
    """Each in seconds; of starts the medians of `STARTS` processes."""
    package = importlib.util.find_spec("bgmagic")
    assert package is not None
    for folder in package.submodule_search_locations or ():
        compileall.compile_dir(
            folder, quiet=1
        )  # as an installed package is, whatever this one writes
    found: dict[str, list[float]] = defaultdict(list)
    with serving() as url, tempfile.TemporaryDirectory() as folder:
        env = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": url}
        for number in range(STARTS):
            journal = str(Path(folder) / f"{number}.sqlite3")
            imported, posted, _ = _process(POST, BGMAGIC_JOURNAL=journal, **env)
            found["import"].append(imported)
            found["post"].append(imported + posted)
            for name, pause in (("cell", 0.0), ("typed", TYPING)):
                load, cell = _first_cell(pause, env)
                found["load"].append(load)
                found[name].append(cell)
            load, cell = _first_cell(0.0, env, WIDGETLESS)
            found["cold"].append(cell)
            found["cold_both"].append(load + cell)
            # A user's journal is a file that is there, with jobs of other notebooks: an earlier
            # build opens it with `%load_ext`, so that only both together compare.
            kept = str(Path(folder) / "kept.sqlite3")
            notebook = f"/home/user/{number}.ipynb"
            there = {"BGMAGIC_JOURNAL": kept, "JPY_SESSION_NAME": notebook}
            found["both"].append(sum(_first_cell(0.0, env | there)))
            found["beside"].append(_first_post_beside_a_cell(env))
        medians = {name: statistics.median(times) for name, times in found.items()}
        return medians | _long_journal(Path(folder) / "long.sqlite3", env)


def _first_post_beside_a_cell(env: dict[str, str]) -> float:
    """Seconds from a kernel's first cell until its job is accepted, while the next one computes."""
    with kernel(**env) as running:
        running.start("%load_ext bgmagic")
        running.start("%%bgresponse -o x\nWhy?")
        return float(running.ok(COMPUTES, SLOW).stdout.split()[-1])


def _first_cell(
    pause: float, env: dict[str, str], before: str = "import ipywidgets"
) -> tuple[float, float]:
    """Seconds of `%load_ext`, and of the first cell of a kernel, sent ``pause`` seconds later; the kernel
    runs the cell ``before`` first."""
    with kernel(**env) as running:
        running.ok(before)
        load = "get_ipython().run_line_magic('load_ext', 'bgmagic')"
        loaded = float(running.ok(CLOCK.format(load)).stdout)
        time.sleep(pause)
        return loaded, running.ok("%%bgresponse -o x\nWhy?").seconds


def _long_journal(path: Path, env: dict[str, str]) -> dict[str, float]:
    """A journal of `ROWS` jobs, of which `OPEN` are open, read by a kernel."""
    os.environ.update(env)
    _fill(path, env["OPENAI_BASE_URL"])
    found: dict[str, float] = {}
    with kernel(**env, BGMAGIC_JOURNAL=str(path), JPY_SESSION_NAME=NOTEBOOK) as running:
        running.ok("import ipywidgets, sqlite3")
        running.ok(f"items = [f'question {{n}}' for n in range({REUSED})]")
        load = "get_ipython().run_line_magic('load_ext', 'bgmagic')"
        found["open"] = float(running.ok(CLOCK.format(load)).stdout.split()[-1])
        running.ok("%%bgresponse --quiet --wait\nWhy?")  # the SDK is imported by then
        found["listed"] = running.ok("%bgjobs --all").seconds
        sweep = "%%bgresponse -o x --reuse --each items --yes 1000 --quiet\n{{ item }}"
        begun = time.perf_counter()
        running.ok(sweep)
        running.until("x.counts.get('completed') == 1000", SLOW)
        found["reused"] = time.perf_counter() - begun
        running.ok(f"many = [f'{{n}}' for n in range({ROWS})]")
        many = f"%%bgresponse -o y --each many --yes {ROWS} --quiet\n{{{{ item }}}}"
        found["many"] = running.ok(many, SLOW).seconds
    return found


def _fill(path: Path, server: str) -> None:
    """Write the journal with the build's own means, whichever it is."""
    import bgmagic

    os.environ["BGMAGIC_JOURNAL"] = str(path)
    from tests.benchmarks.worker import manager_of_process

    with contextlib.redirect_stdout(io.StringIO()):
        items = [f"question {number}" for number in range(REUSED)]
        group = bgmagic.map("{{ item }}\n", items, yes=REUSED, poll=0.5)
        group.result(SLOW)
    manager = manager_of_process()
    store: Any = getattr(manager, "store", None) or manager.ledger
    journal = store.journal
    first = journal.find(group.jobs[0].record.key)
    response = json.dumps(json.loads(first.response), ensure_ascii=False)
    copies = []
    for number in range(ROWS - REUSED):
        is_open = number < OPEN
        copies.append(
            dataclasses.replace(
                first,
                key=f"k{number}",
                created_at=first.created_at - 10 - number,
                fingerprint=f"f{number}",
                notebook=NOTEBOOK if is_open else "other.ipynb",
                name=f"name{number}",
                status="queued" if is_open else "completed",
                ended_at=None if is_open else first.ended_at,
                response_id=f"resp_x{number}",
                response=None if is_open else response,
                group_key=None,
                group_name=None,
                group_index=None,
                group_details=None,
                owner=None,
            )
        )
    for begin in range(0, len(copies), 1000):
        journal.add(*copies[begin : begin + 1000]).result(60)
    manager.close(10)
