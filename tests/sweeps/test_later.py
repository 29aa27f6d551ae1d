"""Large sweeps: their cell returns before they are rendered, and what is promised holds all the same."""

from __future__ import annotations

import asyncio
import datetime
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas
import pytest

import bgmagic
from bgmagic.display.static_html import group_note_beside
from bgmagic.errors import BadInput
from bgmagic.jobs.outcome import JobFailed
from bgmagic.prompts.template import Template
from bgmagic.runtime import scheduler
from bgmagic.runtime.manager import JobManager
from bgmagic.submission.app import app
from bgmagic.submission.submit import submit_settings
from bgmagic.sweeps import plan
from bgmagic.sweeps.feed import SweepFeed
from bgmagic.sweeps.plan import plan_sweep
from bgmagic.sweeps.submit import attach_group
from tests.jobs.test_group import Ask, ask, echo, kernel_of, letter, prompts
from tests.jobs.test_job import LIMIT, eventually
from tests.notebook.test_attach import Start, kill, start
from tests.support.scripted import ScriptedServer, response

__all__ = ["ask", "kernel_of", "start"]  # fixtures


@pytest.fixture(autouse=True)
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps of any size are large here."""
    monkeypatch.setattr(plan, "AT_ONCE", 0)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What is rendered on the loop thread waits for this."""
    let, render = threading.Event(), plan.LaterRequests._rendered

    def rendered(self: Any, point: Any) -> Any:
        assert let.wait(LIMIT)
        return render(self, point)

    monkeypatch.setattr(plan.LaterRequests, "_rendered", rendered)
    yield let
    let.set()


def planned(template: str, namespace: dict[str, Any], **given: Any) -> list[plan.SweepPlan]:
    """The sweep as it is rendered in the cell, and after it."""
    settings = submit_settings(given, from_python=True)
    return [
        plan_sweep(template, settings, "x", dict(namespace), whole=whole) for whole in (True, False)
    ]


TABLE = pandas.DataFrame(
    {"q": ["a", None, "c"], "n": [1, 2, 3], "at": pandas.date_range("2026-01-01", periods=3)},
    index=pandas.Index([7, 8, 9], name="row"),
)


@pytest.mark.parametrize(
    ("template", "given"),
    [
        ("Say {{ item }}", {"each": ["a", "b\n", " c "]}),
        ("{{ item }} {{ rubric }} {{ limits[item] }}", {"each": ("x", "y")}),
        (
            "{{ item.q }} of {{ item.count }} {{ item.tags | join('+') }}",
            {"each": [{"q": "a", "count": 1, "tags": ["s"]}, {"q": "b", "count": 2, "tags": []}]},
        ),
        ("{{ item }}", {"each": {"k": {"x": 1}, ("a", 2): "t"}}),
        ("{{ item.q }} {{ item.n }} {{ item.at }} {{ item.row }}", {"each": TABLE}),
        ("{{ item }}", {"each": [1.5, True, None, datetime.date(2026, 1, 2), [1, {"a": 2}]]}),
        (
            "{{ item }}",
            {"each": range(3), "n": 2, "sweep": {"effort": ["low", "high"], "top_p": [0.5, 1]}},
        ),
        (
            "Why? {{ rubric }}",
            {
                "n": 3,
                "param": {"metadata.run": "7"},
                "messages": [{"role": "user", "content": "Hm"}],
            },
        ),
        (
            "{{ item }}",
            {
                "each": ["a", "b"],
                "schema": {"type": "object", "properties": {"a": {"type": "string"}}},
                "tool": "web_search",
                "instructions": "short",
            },
        ),
    ],
)
def test_the_same_requests(pointed: ScriptedServer, template: str, given: dict[str, Any]) -> None:
    """What is rendered after the cell is, byte by byte, what would be rendered in it, and each job has
    the same position and fingerprint."""
    namespace = {"rubric": "be kind", "limits": {"x": [1], "y": [2]}}
    now, later = planned(template, namespace, **given)
    assert (now.later, later.later) == (False, True)
    assert [one.request.text for one in later.prepared] == [
        one.request.text for one in now.prepared
    ]
    assert [one.fingerprint("s") for one in later.prepared] == [
        one.fingerprint("s") for one in now.prepared
    ]
    assert [one.details | {"index": one.index} for one in later.positions] == [
        one.details | {"index": one.index} for one in now.positions
    ]


def test_a_cell_that_returns_before_its_items_are_rendered(
    ask: Ask, pointed: ScriptedServer, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100,000 items two are rendered when `map` returns, and no handle is made; meanwhile the group
    has its length, its counts and any job that one looks at, which becomes the one that is sent."""
    rendered: list[object] = []
    render = Template.render
    monkeypatch.setattr(Template, "render", lambda *a, **k: rendered.append(a) or render(*a, **k))
    group = ask(items=[f"{n}" for n in range(100_000)], yes=100_000, max_in_flight=2)
    assert len(rendered) == 2
    assert (len(group), group.size, group.done()) == (100_000, 100_000, False)
    assert group.made == []
    assert repr(group) == "<JobGroup group 100000 jobs: 100000 waiting>"
    third = group.job(3)
    assert (third.name, third.status, third.request.model) == ("group[3]", "waiting", "gpt-5.2")
    held.set()
    assert third.result(LIMIT) == "the answer"
    assert group[3] is third.result(0)
    assert third.request.body["input"][0]["content"][0]["text"].strip() == "Say 3"


def test_what_is_changed_after_the_cell(
    ask: Ask, pointed: ScriptedServer, held: threading.Event
) -> None:
    """Items, rows, tables and variables are what they were when the cell ran."""
    pointed.ending = echo
    rows: list[Any] = [{"q": "a", "more": ["x"]}, {"q": "b", "more": ["y"]}, {"q": "c", "more": []}]
    notes = {"a": ["kind"], "b": ["short"], "c": []}
    table = pandas.DataFrame({"q": ["d", "e", "f"]})
    fill = {"notes": notes, "who": "you"}
    first = ask("{{ item.q }} {{ item.more }} {{ notes[item.q] }} {{ who }}", rows, fill=fill)
    second = ask("{{ item.q }}", table)
    rows[1]["q"] = rows[2]["more"] = "changed"
    rows[0]["more"].append("changed")
    notes["b"].append("changed")
    fill["who"] = "changed"
    table.loc[1, "q"] = "changed"
    rows.clear()
    held.set()
    assert not any("changed" in answer for answer in [*first.result(LIMIT), *second.result(LIMIT)])
    assert first.to_frame()["item.q"].tolist() == ["a", "b", "c"]


@dataclass
class Case:
    """An object of the user's own."""

    q: str


@pytest.mark.parametrize(
    "items", [[Case("a"), Case("b")], [{"q": Case("a"), "n": 1}, {"q": "b", "n": 2}]]
)
def test_what_may_change_is_rendered_in_the_cell(
    ask: Ask, pointed: ScriptedServer, items: list[Any]
) -> None:
    """Objects of the user's own classes, which can't be copied for sure, are rendered at once."""
    template = (
        "{{ item.q }}" if isinstance(items[0], Case) else "{{ item.q is string }} {{ item.n }}"
    )
    settings = submit_settings({"each": items}, from_python=True)
    assert not plan_sweep(template, settings, "x", {}).later
    loop: list[Any] = [[], []]
    loop[0].append(loop[0])
    assert not plan_sweep("{{ item | length }}", submit_settings({"each": loop}, from_python=True), "x", {}).later  # fmt: skip


def test_a_job_that_still_runs_is_waited_for(ask: Ask, pointed: ScriptedServer) -> None:
    """A sweep whose prompts need a running job is rendered in the cell, and each job waits for it."""
    pointed.polls = 10**6
    before = bgmagic.submit("First", poll=0.02)
    group = ask("{{ before }} {{ item }}", ["a", "b"], fill={"before": before})
    assert group.jobs[0].record.waits_for
    assert pointed.count("create") < 2


def test_a_mistake_in_an_item_is_that_jobs_own_end(
    ask: Ask, pointed: ScriptedServer, kernel_of: Callable[[], dict[str, Any]]
) -> None:
    """An item that can't be used fails by itself and says why; all others are asked. The next kernel
    finds it so in the journal, and nothing sends it."""
    pointed.ending = echo
    items: list[Any] = [{"q": "a"}, {"q": "b"}, {"no": 1}, {"q": "d"}]
    group = ask("{{ item.q }}", items, out="x")
    results = group.result(LIMIT, return_exceptions=True)
    told = r"not sent: --each, item 2: line 1, {{ item.q }}: the row has no column 'q'; it has no"
    assert isinstance(results[2], JobFailed)
    assert re.search(re.escape(told), str(results[2]))
    assert [str(one) for one in results if isinstance(one, str)] == ["re: a", "re: b", "re: d"]
    assert [job.name for job in group.failed] == ["x[2]"]
    with pytest.raises(BadInput, match=r"nothing to send again: .*item 2.*run the cell again"):
        group.retry_failed()
    with pytest.raises(BadInput, match="it never became a request"):
        group.failed[0].resend()
    assert group.to_frame()["status"].tolist() == ["completed", "completed", "failed", "completed"]
    kernel_of()
    later = attach_group(group.key, "x")
    assert [str(job.error) for job in later.failed] == [str(results[2])]
    with pytest.raises(BadInput, match="nothing to send again"):
        later.retry_failed()
    assert prompts(pointed) == ["a", "b", "d"]


@pytest.mark.parametrize("at", [0, 3])
def test_mistakes_of_the_first_and_the_last_are_told_at_once(
    ask: Ask, pointed: ScriptedServer, at: int
) -> None:
    """These two are rendered in the cell, so a mistake there is one line, and nothing is sent."""
    items: list[Any] = [{"q": "a"}] * 4
    items[at] = {"no": 1}
    with pytest.raises(BadInput, match=f"--each, item {at}: .*no column 'q'"):
        ask("{{ item.q }}", items)
    assert pointed.count("create") == 0


def test_run_again_while_it_is_rendered(
    ask: Ask, pointed: ScriptedServer, held: threading.Event
) -> None:
    """Run again, and changed, before its items are rendered, a sweep asks each of them once; handles
    that somebody had already go as the jobs do that stand in their places."""
    pointed.ending = lambda rid, body: (
        echo(rid, body) if letter(body) in "abc" else response(rid, "in_progress")
    )
    first = ask(items=list("abcd"), out="x")
    second = ask(items=list("abcde"), out="x")
    handle, cancelled = second.job(1), second.job(3)
    cancelled.cancel()
    third = ask(items=list("c"), out="x")
    held.set()
    assert handle.result(LIMIT) == "re: Say b"
    eventually(lambda: third.done() and first.jobs[3].record.cancelling)
    assert second.jobs[:4] == first.jobs
    assert third.jobs[0] is first.jobs[2]
    # What was cancelled in the second run is not sent by the first.
    eventually(lambda: sorted(prompts(pointed)) == [f"Say {one}" for one in "abce"])
    assert handle not in bgmagic.jobs()
    assert {*first.jobs, *second.jobs, *third.jobs} == set(bgmagic.jobs())


def test_cancelled_while_the_first_run_is_sent(
    ask: Ask, pointed: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that is run again while the first run is rendered, and then cancelled: nothing more of the
    first run that it asks for goes out, and what it does not ask for goes on."""
    pointed.ending = echo
    let, new_jobs = threading.Event(), SweepFeed._new_jobs

    async def held(self: SweepFeed, rendered: Any) -> Any:
        while rendered[0].index >= 32 and not let.is_set():
            await asyncio.sleep(0.01)
        return await new_jobs(self, rendered)

    monkeypatch.setattr(SweepFeed, "_new_jobs", held)
    items = [str(number) for number in range(300)]
    first = ask(items=[*items, "more"], out="x", max_in_flight=2, yes=301)
    eventually(lambda: first.counts.get("completed", 0) >= 32)
    second = ask(items=items, out="x", max_in_flight=2, yes=300)
    assert second.cancel()
    eventually(lambda: all(job.record.cancelling for job in second.jobs))
    let.set()
    eventually(lambda: second.done() and first.done())
    assert second.counts == {"cancelled": 268, "completed": 32}
    assert first.job(300).result(LIMIT) == "re: Say more"
    assert pointed.count("create") == 33


@pytest.mark.parametrize("whole", [0, 10**6], ids=["later", "in the cell"])
def test_few_are_begun_at_once(
    ask: Ask,
    kernel_of: Callable[[], dict[str, Any]],
    pointed: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    whole: int,
) -> None:
    """Of jobs that wait for room at the server few have tasks; all are written down, one that has none
    is cancelled at once, and the next kernel goes on with those that were never begun."""
    monkeypatch.setattr(plan, "AT_ONCE", whole)
    monkeypatch.setattr(scheduler, "MOST_BEGUN", 3)
    pointed.polls, pointed.ending = 10**6, echo
    group = ask(items=list("abcdefghi"), out="x", max_in_flight=2)
    eventually(lambda: group.counts.get("in_progress") == 2)
    start = app.manager._scheduler._starts[0]
    assert [job.name for job in start._unsent] == ["x[5]", "x[6]", "x[7]", "x[8]"]
    assert group.job(7).cancel()
    eventually(group.job(7).done)
    assert group.counts == {"in_progress": 2, "waiting": 6, "cancelled": 1}
    kernel_of()
    assert all(group.job(index).done() for index in range(9))
    pointed.polls = 1
    again = attach_group(group.key, "x")
    eventually(again.done)
    assert again.counts == {"completed": 8, "cancelled": 1}
    assert sorted(prompts(pointed)) == [f"Say {one}" for one in "abcdefgi"]


def test_one_that_another_kernel_has(
    ask: Ask, pointed: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a sweep that joins jobs of which one can't be attached, that one says why; the others join,
    and what is new is sent."""
    pointed.ending = echo
    ask(items=list("abc"), out="before").result(LIMIT)
    attach = JobManager.attach

    def refused(self: JobManager, entry: Any, *given: Any, **more: Any) -> Any:
        if "Say b" in entry.request:
            raise BadInput("x[1] is followed by another kernel that is alive")
        return attach(self, entry, *given, **more)

    monkeypatch.setattr(JobManager, "attach", refused)
    group = ask(items=list("abcd"), out="x", reuse=True)
    eventually(group.done)
    assert [str(job.error) for job in group.failed] == [
        "not sent: x[1] is followed by another kernel that is alive"
    ]
    assert [group[0], group[2], group[3]] == ["re: Say a", "re: Say c", "re: Say d"]
    assert sorted(prompts(pointed)) == [f"Say {one}" for one in "abcd"]


def test_reused_as_it_is_rendered(ask: Ask, pointed: ScriptedServer) -> None:
    """With --reuse the answers of the journal take their places, and only the others are asked."""
    pointed.ending = echo
    ask(items=list("abc"), out="before").result(LIMIT)
    group = ask(items=list("adcb"), out="x", reuse=True)
    assert group.result(LIMIT) == [f"re: Say {one}" for one in "adcb"]
    assert sorted(prompts(pointed)) == [f"Say {one}" for one in "abcd"]
    # By that name a later kernel finds what was sent for it.
    assert "%bgattach x follows" in group_note_beside(group)["text/plain"]


def test_the_key_is_gone_as_it_is_rendered(
    ask: Ask, pointed: ScriptedServer, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep goes, and looks for what is there already, where and as it could when its cell ran."""
    pointed.ending = echo
    held.set()
    ask(items=list("abc"), out="x").result(LIMIT)
    held.clear()
    group = ask(items=list("abcde"), out="x", reuse=True)
    monkeypatch.delenv("OPENAI_API_KEY")
    held.set()
    assert group.result(LIMIT) == [f"re: Say {one}" for one in "abcde"]
    assert sorted(prompts(pointed)) == [f"Say {one}" for one in "abcde"]


def test_cancelled_before_it_is_rendered(
    ask: Ask, pointed: ScriptedServer, held: threading.Event
) -> None:
    """What is cancelled meanwhile is not sent; it can be, later, as any cancelled job can."""
    pointed.ending = echo
    group = ask(items=list("abc"))
    assert group.cancel()
    held.set()
    eventually(group.done)
    assert group.counts == {"cancelled": 3}
    assert pointed.count("create") == 0
    assert len(group.retry_failed()) == 3
    assert group.result(LIMIT) == [f"re: Say {one}" for one in "abc"]


def test_all_are_cancelled_before_they_are_rendered(start: Start, server: ScriptedServer) -> None:
    """%bgcancel --all cancels those too that a sweep has not come to yet: not one more is sent."""
    server.ending = lambda rid, body: response(rid, "in_progress")
    with start() as one:
        one.ok(HOLD.replace("asyncio.sleep(3600)", "asyncio.to_thread(let.wait)"))
        one.ok("import threading\nlet = feed.let = threading.Event()")
        one.ok("%%bgresponse -o x --each numbers --yes 400 --poll 0.2\nSay {{ item }}")
        one.until("any(x.places) and x.running()")
        one.ok("%bgcancel --all")
        one.ok("let.set()")
        one.until("x.done()")
        assert one.value("x.counts") == "{'cancelled': 400}"
    assert server.count("create") <= 64


def test_the_exit_tells_what_was_not_written(
    ask: Ask, pointed: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ends before all are written down says how many are not sent, and what sends them;
    who waits for one of them is told as well."""
    begun, said = threading.Event(), list[str]()

    async def never(self: SweepFeed, rendered: Any) -> Any:
        begun.set()
        await asyncio.sleep(3600)

    monkeypatch.setattr(SweepFeed, "_new_jobs", never)
    monkeypatch.setattr("bgmagic.submission.app.write_to_process_log", said.append)
    group = ask(items=list("abc"), out="x")
    job = group.job(0)
    assert begun.wait(LIMIT)
    app._end()
    assert said == [
        "bgmagic: 3 jobs of x were not written down yet and are not sent; its cell, run again, sends them."
    ]
    assert job.status == group.job(2).status == "detached"
    assert pointed.count("create") == 0


HOLD = """
import asyncio
import bgmagic.sweeps.feed as feed
new_jobs = feed.SweepFeed._new_jobs
async def held(self, rendered):
    if rendered[0].index >= 200:
        await asyncio.sleep(3600)
    return await new_jobs(self, rendered)
feed.SweepFeed._new_jobs = held
numbers = list(range(400))
"""


def test_killed_while_it_is_rendered(start: Start, server: ScriptedServer) -> None:
    """kill -9 before all is written down: the next kernel has what was, says that the rest was never
    sent, and the cell, run again, sends just that; no request is sent twice and none is missing."""
    server.ending = echo
    cell = "%%bgresponse -o x --each numbers --yes 400 --poll 0.2\nSay {{ item }}"
    with start() as first:
        first.ok(HOLD)
        said = first.ok(cell).said
        assert "x: 400 jobs, rendered and checked as they are sent" in said
        # None of them is being sent any more: that would be unknown.
        first.until("len(x.made) >= 200 and all(job.done() for job in x.made)")
        kill(first)
    with start() as second:
        said = second.ok("%bgattach x").said
        assert re.search(r"x: \d+ of its 400 jobs .*were not written down, so never sent", said)
        second.ok("numbers = list(range(400))")
        second.ok(f"{cell.replace('-o x', '-o x --reuse')}")
        second.until("x.done()")
        assert second.value("x.counts") == "{'completed': 400}"
    assert sorted(prompts(server)) == sorted(f"Say {n}" for n in range(400))
