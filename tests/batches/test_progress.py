"""How far a batch is, as the server counts it: on the board, in the group's line, and nowhere else;
how its many jobs are kept."""

# ruff: noqa: F811 - fixtures of another file are used by their names
from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bgmagic.api.batch import BatchReport, RequestCounts, progress_text, read_result
from bgmagic.api.request import Request
from bgmagic.display.listing import describe_jobs
from bgmagic.jobs.packed import PackedRecord
from bgmagic.jobs.record import GroupPosition, JobRecord
from tests.batches.study import records_of
from tests.jobs.test_group import Ask, ask, kernel_of  # noqa: F401
from tests.jobs.test_job import LIMIT, eventually
from tests.support.scripted import ScriptedServer


def test_a_group_tells_how_far_its_batch_is(ask: Ask, pointed: ScriptedServer) -> None:
    """While the server has a batch, its board and its line tell how many requests the server says are
    done; a poll that changes that is one change of one job, and with the answers it is gone."""
    pointed.batching.polls = 10_000
    group = ask("{{ item }}", list("abcde"), batch=True, poll=0.1)
    board: Any = group.board
    eventually(lambda: group.counts == {"in_progress": 5})
    assert (board.view["batch"], "done" in repr(group)) == ("", False)
    changes: list[Any] = []
    group.add_listener(changes.append)
    (batch,) = pointed.batching.batches.values()
    batch["request_counts"] = {"total": 5, "completed": 2, "failed": 1}
    eventually(lambda: board.view["batch"] == "3 of 5 done, 1 failed")
    eventually(lambda: changes)
    assert len(changes) == 1
    assert repr(group).endswith("5 jobs: 5 in_progress; at the server 3 of 5 done, 1 failed>")
    assert "5 in_progress (at the server 3 of 5 done, 1 failed), after" in describe_jobs(group.jobs)
    assert board.view["ended"] == 0
    pointed.batching.polls = 0
    group.result(LIMIT)
    eventually(lambda: board.view["done"])
    assert (board.view["batch"], "at the server" in repr(group)) == ("", False)


def test_several_batches_add_up(ask: Ask, pointed: ScriptedServer) -> None:
    """Of a group in several batches, one a model, it is told how far all are together."""
    pointed.batching.polls = 10_000
    group = ask(
        "{{ item }}", ["a", "b"], batch=True, poll=0.1, sweep={"model": ["gpt-5.2", "gpt-5"]}
    )
    eventually(lambda: group.counts == {"in_progress": 4})
    for batch in pointed.batching.batches.values():
        batch["request_counts"] = {"total": 2, "completed": 1, "failed": 0}
    eventually(lambda: repr(group).endswith("; at the server 2 of 4 done>"))
    group.cancel()
    eventually(group.done)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
COUNTS = st.dictionaries(
    st.sampled_from(["total", "completed", "failed"]), st.integers(-2, 9) | JSON
)


@given(JSON | COUNTS)
def test_counts_are_the_servers_or_none(told: Any) -> None:
    """Whatever a server gives as counts: what can't be such counts is told as nothing."""
    counts = BatchReport.of({"id": "b", "status": "in_progress", "request_counts": told}).counts
    if counts is None:
        return
    assert told == {**told, **vars(counts)}
    assert 0 < counts.total >= counts.completed + counts.failed >= 0
    assert progress_text([counts]).startswith(f"{counts.completed + counts.failed} of")


def test_counts_are_read() -> None:
    """Large counts are told with their thousands; those of a batch that is validated are none yet."""
    counts = RequestCounts.of(
        {"request_counts": {"total": 50_000, "completed": 12_000, "failed": 0}}
    )
    assert counts is not None
    assert progress_text([counts]) == "12,000 of 50,000 done"
    zero = {"request_counts": {"total": 0, "completed": 0, "failed": 0}}
    assert RequestCounts.of(zero) is None


@pytest.mark.parametrize(
    "errors", [None, "no", ["x"], [["x"]], {"data": ["x", 1]}, {"data": {"message": "no"}}, 7]
)
def test_a_report_is_read_of_any_errors(errors: Any) -> None:
    """A batch object may have anything as its errors: what is no list of objects says nothing, and what
    a terminal would obey is no part of a reason."""
    assert BatchReport.of({"id": "batch_1", "errors": errors}).why == ""
    told = {"data": ["x", {"code": "bad\x1b[2J", "message": "line\n1"}]}
    assert BatchReport.of({"errors": told}).why == "bad [2J: line 1"
    line = {"custom_id": "a", "error": {"code": "\x1b]0;x\x07", "message": "\x1b[2J"}}
    result = read_result(line)
    assert result is not None
    assert result.reason.isprintable()


POSITIONS = st.builds(
    GroupPosition,
    group=st.sampled_from(["g", "h"]),
    name=st.sampled_from(["study", None]),
    index=st.integers(0, 3),
    size=st.integers(1, 4),
    in_flight=st.just(64),
    kind=st.sampled_from(["list", "dict", ""]),
    key=st.none() | st.text(max_size=3),
    item=st.none() | st.integers(),
    settings=st.sampled_from([(), (("effort", "low"),), (("store", True),), (("store", 1),)]),
    sample=st.integers(0, 2),
)
RECORDS = st.builds(
    JobRecord,
    request=st.sampled_from([Request("{}"), Request('{"model": "m"}')]),
    server=st.just("s"),
    submitted_at=st.sampled_from([1.0, 2.0]),
    name=st.none() | st.sampled_from(["study[1]", "study['a']", "[2]", ""]) | st.text(max_size=4),
    status=st.sampled_from(["waiting", "in_progress"]),
    response_id=st.none() | st.just("resp_1"),
    reason=st.none() | st.text(max_size=3),
    position=st.none() | POSITIONS,
    batch=st.just("b"),
)


# Settings that are equal, of records that are alike otherwise.
ALIKE = [
    JobRecord(
        Request("{}"),
        "s",
        1.0,
        position=GroupPosition("g", "x", 0, 2, 2, settings=(("store", given),)),
    )
    for given in (True, 1)
]


@example(ALIKE)
@given(st.lists(RECORDS, max_size=12))
def test_a_packed_record_is_what_it_was(records: list[JobRecord]) -> None:
    """Whatever the jobs of a batch share, each record is given back as it was."""
    unpacked = [one.record for one in [PackedRecord(record) for record in records]]
    assert unpacked == records
    assert repr([one.position for one in unpacked]) == repr([one.position for one in records])


def test_jobs_of_a_batch_take_little_room(server: ScriptedServer) -> None:
    """Of tens of thousands of jobs, what they have in common is kept once."""
    records = [replace(one, submitted_at=1.0) for one in records_of(server, 2000)]
    tracemalloc.start()
    try:
        packed = [PackedRecord(record) for record in records]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 200 * len(packed)  # by themselves 620 each
