"""What the tests of batches share: a clock that runs fast, kernels' managers, and a study."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from bgmagic.api.batch import BatchAssigner
from bgmagic.api.request_body import build_request
from bgmagic.api.server import ServerConfig
from bgmagic.batches.runs import BatchRuns
from bgmagic.concurrency import Clock, WakeEvent
from bgmagic.jobs.job import Job
from bgmagic.jobs.record import GroupPosition, JobRecord
from bgmagic.runtime.manager import JobManager
from bgmagic.runtime.pacing import RunConfig
from bgmagic.storage.job_store import JobStore
from bgmagic.storage.journal import Journal
from bgmagic.storage.owner_lock import OwnerLock
from tests.conftest import KEY
from tests.support.scripted import ScriptedServer

FAST = 2000.0  # times: a minute takes 30 ms

_BEGUN = time.time()


async def _wait(wake: WakeEvent, seconds: float) -> None:
    await wake.wait(seconds / FAST)


def fast_clock() -> Clock:
    """A clock on which polls a minute apart come soon."""
    return Clock(lambda: _BEGUN + (time.time() - _BEGUN) * FAST, _wait)


def manager_of(path: Path | None, gate: Any = None) -> JobManager:
    """The manager of one kernel, with its journal at ``path``."""
    store = JobStore(Journal(path), OwnerLock(None if path is None else path.parent / "owners"))
    return JobManager(clock=fast_clock(), store=store, make_batches=BatchRuns, gate=gate)


def config_of(server: ScriptedServer, deadline: float = 90_000.0) -> RunConfig:
    return RunConfig(ServerConfig(server.base_url, KEY), None, deadline)


def records_of(
    server: ScriptedServer, count: int, models: Sequence[str] = ("gpt-5.2",)
) -> list[JobRecord]:
    """Jobs of one group that are to go in batches."""
    address = ServerConfig(server.base_url, KEY).name
    records = []
    for index in range(count):
        turn = {"role": "user", "content": [{"type": "input_text", "text": f"q{index}"}]}
        request = build_request([turn], model=models[index % len(models)], batch=True)
        at = GroupPosition("group-1", "study", index, count, 64, "list", item=index)
        records.append(
            JobRecord(
                request, address, fast_clock().now(), f"study[{index}]", True, "nb", position=at
            )
        )
    assigner = BatchAssigner()
    return [replace(one, batch=assigner.name(one.request)) for one in records]


def sent(manager: JobManager, server: ScriptedServer, count: int = 5, **more: Any) -> list[Job]:
    """The jobs of a new study of so many questions, with the server on their clock: on another one
    it would be a day behind after 43 s, and its list is not read any further back than that."""
    server.batching.now = fast_clock().now
    return manager.submit_all(records_of(server, count, **more), config_of(server))


def entries_of(manager: JobManager) -> list[Any]:
    """The jobs of the study in the journal, in order."""
    return manager.store.group("group-1")


def attached(manager: JobManager, server: ScriptedServer) -> list[Job]:
    """The jobs of the study that the journal has, followed by this kernel."""
    config = config_of(server)
    return [manager.attach(entry, server=config.server) for entry in entries_of(manager)]


def attached_at_once(kernels: Sequence[JobManager], server: ScriptedServer) -> list[list[Job]]:
    """The same by several kernels at the same time; the jobs of each."""
    with ThreadPoolExecutor(len(kernels)) as threads:
        return list(threads.map(lambda kernel: attached(kernel, server), kernels))
