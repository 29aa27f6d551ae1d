"""Receipts and budgets: what the journal has is what is counted, over all kernels."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bgmagic
from bgmagic.api.pricing import Rates, Terms, price_of_tokens, read_prices, set_own_prices
from bgmagic.api.request import Request
from bgmagic.api.response import TokenCounts
from bgmagic.errors import BadInput
from bgmagic.jobs.record import JobRecord, Status
from bgmagic.runtime import runner
from bgmagic.runtime.manager import JobManager
from bgmagic.runtime.pacing import ConcurrencyLimiter, RunConfig
from bgmagic.storage.job_store import JobStore
from bgmagic.storage.journal import Journal
from bgmagic.storage.owner_lock import OwnerLock
from bgmagic.submission.app import app
from bgmagic.submission.costs import (
    Budget,
    BudgetGate,
    costs_since,
    receipt,
    start_of,
    to_budget,
)
from bgmagic.submission.dry_run import quote
from tests.jobs.test_job import LIMIT, SOON, eventually
from tests.support.scripted import Script, ScriptedServer, response

Ask = Callable[..., Request]
USAGE = {"input_tokens": 100_000, "output_tokens": 90_000}  # a dollar at these prices
PRICES = {"gpt-5.2": {"input": 1, "output": 10}, "gpt-5.2-true": {"input": 1, "output": 10}}


@pytest.fixture(autouse=True)
def _prices() -> Iterator[None]:
    set_own_prices(read_prices(PRICES, "prices ="))
    yield
    set_own_prices({})


@pytest.fixture
def priced(pointed: ScriptedServer) -> ScriptedServer:
    """A server whose every answer costs a dollar."""
    pointed.ending = lambda rid, body: response(rid, "completed", "x", usage=USAGE)
    return pointed


def made(path: Path | None, budget: Budget | None = None) -> tuple[JobManager, BudgetGate]:
    """A manager over a journal, and its budget."""
    store = JobStore(Journal(path), OwnerLock(None if path is None else path.parent / "owners"))
    gate = BudgetGate(store, lambda: budget)
    return JobManager(store=store, gate=gate), gate


def bounded(ask: Ask, text: str = "Why?", **more: Any) -> Request:
    """A request that can cost a dollar, but for its few tokens in."""
    return ask(text, max_output_tokens=100_000, **more)


def test_a_receipt_by_model_and_window(priced: ScriptedServer, ask: Ask) -> None:
    """The journal's jobs are added up by notebook, model and window: paid, saved, not known, open;
    what was refused costs nothing, and what a window saves is told."""
    manager, _ = made(None)
    try:
        for window in (None, "2h", "8h"):
            manager.submit(ask(window=window), notebook="a.ipynb", poll_interval=SOON).result(LIMIT)
        priced.enqueue("create", Script(status=400, json={"error": {"message": "No."}}))
        assert manager.submit(ask("refused"), poll_interval=SOON).exception(LIMIT) is not None
        priced.shape = lambda whole: whole | {"model": "dream-9"}
        manager.submit(ask(model="dream-9"), poll_interval=SOON).result(LIMIT)
        priced.polls = 10**6
        manager.submit(ask("open"), notebook="a.ipynb", poll_interval=SOON)
        eventually(lambda: len(costs_since(manager.store, 0)) == 5)
        *lines, total = receipt(costs_since(manager.store, 0))
    finally:
        manager.close(60)
    found = {(line.notebook, line.model, line.window): line for line in lines}
    assert {key: (round(one.paid, 9), round(one.saved, 9)) for key, one in found.items()} == {
        ("a.ipynb", "gpt-5.2", ""): (1.0, 0.0),
        ("a.ipynb", "gpt-5.2", "2h"): (0.7, 0.3),
        ("a.ipynb", "gpt-5.2", "8h"): (0.6, 0.4),
        ("", "dream-9", ""): (0.0, 0.0),
    }
    dream, plain = found["", "dream-9", ""], found["a.ipynb", "gpt-5.2", ""]
    assert (dream.unknown, dream.cells[6]) == (1, "")
    assert (plain.jobs, plain.open) == (2, 1)
    assert (total.jobs, total.open, total.unknown) == (5, 1, 1)
    assert total.paid == pytest.approx(2.3)
    assert total.tokens_out == 360_000
    assert lines[0] is plain  # the dearest first


def test_a_job_of_an_older_journal_has_its_price(priced: ScriptedServer, ask: Ask) -> None:
    """A job that was written down without its billing is priced by its request and its response."""
    manager, _ = made(None)
    try:
        job = manager.submit(ask(window="2h"), poll_interval=SOON)
        job.result(LIMIT)
        manager.store.journal.change(job.record.key, billing=None).result(LIMIT)
        (cost,) = costs_since(manager.store, 0)
    finally:
        manager.close(60)
    assert cost.charge.price == pytest.approx(0.7)
    assert cost.window == "2h"


def test_periods_begin_at_midnight_here() -> None:
    """A day begins at local midnight, a week on Monday, a month on its first; 7d are seven days."""
    now = time.mktime((2026, 11, 28, 15, 30, 0, 0, 0, -1))  # a Saturday
    begun = {
        period: time.localtime(Budget(1, period).start(now)) for period in ("day", "week", "month")
    }
    assert {period: (at.tm_mday, at.tm_hour) for period, at in begun.items()} == {
        "day": (28, 0), "week": (23, 0), "month": (1, 0),
    }  # fmt: skip
    assert start_of("today", now) == Budget(1, "day").start(now)
    assert start_of("7d", now) == now - 7 * 86400
    assert start_of("all", now) == 0


@pytest.mark.parametrize("given", ["20", "20/year", "-1/day", "", "a/day", "nan/day", 20])
def test_a_budget_that_is_none(given: object) -> None:
    """What is no budget is one line with an example."""
    with pytest.raises(BadInput, match=r'write dollars a day, week or month, as "20/day"'):
        to_budget(given, "BgMagics.budget =")


def test_a_budget_as_people_write_it() -> None:
    """Dollars may have a sign and cents."""
    assert to_budget("20/day", "") == to_budget("$20 / day", "") == Budget(20, "day")
    assert str(to_budget("0.5/week", "")) == "$0.50/week"
    assert to_budget("2,000.50/month", "") == Budget(2000.5, "month")


@pytest.mark.parametrize("given", ["2000/day", "0.005/week"])
def test_a_budget_read_twice(given: str) -> None:
    """`%config` reads a setting, and then what it has read: that stays the same to the last digit."""
    read = to_budget(given, "")
    assert to_budget(read, "") == read


def test_a_budget_counts_what_other_kernels_pay(
    priced: ScriptedServer, ask: Ask, tmp_path: Path
) -> None:
    """What one kernel has paid, and what it has under way, is missing in the other's budget, also after
    the clock was set back."""
    path = tmp_path / "journal.sqlite3"
    one, _ = made(path)
    two, gate = made(path, Budget(3.2, "day"))
    try:
        one.submit(bounded(ask, "paid"), poll_interval=SOON).result(LIMIT)
        priced.polls = 10**6
        running = one.submit(bounded(ask, "under way"), poll_interval=SOON)
        eventually(lambda: running.response_id is not None)
        server = running.record.server
        assert gate.check([bounded(ask)], server) == ""
        with pytest.raises(BadInput) as caught:
            gate.check([ask(max_output_tokens=130_000)], server)
        told = str(caught.value)
        assert told.startswith("this can cost $1.30, and the budget of $3.20/day has $1.00 spent, ")
        assert "at most $1.00 more are under way" in told
        assert "--over-budget" in told
        assert "\n" not in told
        clock = [time.time() + 1000]
        ahead = BudgetGate(two.store, lambda: Budget(3.2, "day"), lambda: clock[0])
        assert ahead.check([bounded(ask)], server) == ""
        priced.polls = 0
        running.result(LIMIT)
        clock[0] = time.time()
        with pytest.raises(BadInput, match=r"has \$2.00 spent\. Nothing"):
            ahead.check([ask(max_output_tokens=130_000)], server)
    finally:
        one.close(60)
        two.close(60)


def test_what_has_no_price_is_counted_and_said(priced: ScriptedServer, ask: Ask) -> None:
    """A job without a known price is sent, and told as such; the refusal of another says how many
    there were."""
    manager, gate = made(None, Budget(0.5, "day"))
    priced.shape = lambda whole: whole | {"model": "dream-9"}
    try:
        job = manager.submit(ask(model="dream-9"), poll_interval=SOON)
        job.result(LIMIT)
        server = job.record.server
        assert "its price is not known, so the budget of $0.50/day does not count it" in gate.check(
            [ask(model="dream-9")], server
        )
        with pytest.raises(BadInput, match="without 1 job of no known price"):
            gate.check([bounded(ask)], server)
    finally:
        manager.close(60)


def test_the_embedded_model_costs_what_its_user_says(priced: ScriptedServer, ask: Ask) -> None:
    """A budget counts jobs of the embedded model only where their user gives its price: then one
    that is spent refuses them too, whether or not their output has a bound."""
    manager, gate = made(None, Budget(0.5, "day"))
    try:
        local, server = "bgmagic.local", manager.destination().name
        ample = BudgetGate(manager.store, lambda: Budget(50, "day"))
        assert "has no bound without --max-output-tokens" in ample.check([ask()], local)
        record = JobRecord(bounded(ask), server, time.time(), over_budget=True)
        manager.submit_all([record], RunConfig(manager.destination(), SOON, 3600.0))[0].result(
            LIMIT
        )
        for request in (ask(), bounded(ask)):
            with pytest.raises(BadInput, match=r"budget of \$0.50/day has \$1.00 spent"):
                gate.check([request], local)
            assert "spent" in str(gate.refusal(JobRecord(request, local, time.time())))
        assert gate.check([ask(model="dream-9")], local) == ""
        assert gate.refusal(JobRecord(ask(model="dream-9"), local, time.time())) is None
    finally:
        manager.close(60)


def test_a_sweep_stops_at_the_line(
    priced: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that could go over the budget are not sent and stay waiting, say why, and go on when the
    budget allows; --over-budget sends them. It is no refusal, after which the next tries come ever later."""
    monkeypatch.setattr(runner, "BUDGET_RETRY", 0.05)
    refusals: list[Any] = []
    monkeypatch.setattr(ConcurrencyLimiter, "on_throttled", lambda *told: refusals.append(told))
    limits = [Budget(3.5, "day")]
    store = JobStore(Journal(None), OwnerLock(None))
    manager = JobManager(store=store, gate=BudgetGate(store, lambda: limits[0]))
    try:
        server = manager.destination()

        def sweep(count: int, **more: Any) -> list[Any]:
            records = [
                JobRecord(bounded(ask, str(n)), server.name, time.time(), name=f"s[{n}]", **more)
                for n in range(count)
            ]
            limiter = ConcurrencyLimiter(64)
            return manager.submit_all(records, RunConfig(server, SOON, 3600.0, limiter=limiter))

        jobs = sweep(6)
        eventually(lambda: sum(job.done() for job in jobs) == 3)
        eventually(lambda: any("budget of $3.50/day" in (j.record.trouble or "") for j in jobs))
        assert priced.count("create") == 3
        assert [job.status for job in jobs].count(Status.WAITING) == 3
        forced = sweep(1, over_budget=True)
        assert forced[0].result(LIMIT) == "x"
        limits[0] = Budget(100, "day")
        assert [job.result(LIMIT) for job in jobs] == ["x"] * 6
        assert priced.count("create") == 7
        assert refusals == []
    finally:
        manager.close(60)


def test_over_budget_is_kept_over_a_restart(
    priced: ScriptedServer, ask: Ask, tmp_path: Path
) -> None:
    """A job that --over-budget let through and that no kernel has sent yet is sent by the next one that
    attaches it, whatever the budget says."""
    path = tmp_path / "journal.sqlite3"

    def life() -> JobManager:
        store = JobStore(Journal(path), OwnerLock(tmp_path / "owners"))
        return JobManager(store=store, gate=BudgetGate(store, lambda: Budget(0.01, "day")))

    full = {"error": {"message": "full"}}
    priced.always["create"] = Script(status=429, json=full, headers={"retry-after": "60"})
    first = life()
    job = first.submit(bounded(ask), poll_interval=SOON, over_budget=True)
    eventually(lambda: priced.count("create") == 1 and job.status == Status.WAITING)
    first.close(60)
    del priced.always["create"]
    second = life()
    try:
        entry = second.store.find(job.record.key)
        assert entry is not None
        assert second.attach(entry).result(LIMIT) == "x"
    finally:
        second.close(60)


def test_a_budget_that_cannot_be_read_holds_jobs_back(
    priced: ScriptedServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget that became unreadable after a cell has run sends nothing, says what is wrong with it,
    and lets the job go once it is mended."""
    monkeypatch.setattr(runner, "BUDGET_RETRY", 0.05)
    given = ["plenty"]
    store = JobStore(Journal(None), OwnerLock(None))
    gate = BudgetGate(store, lambda: to_budget(given[0], "BGMAGIC_BUDGET"))
    manager = JobManager(store=store, gate=gate)
    try:
        server = manager.destination()
        record = JobRecord(bounded(ask), server.name, time.time(), name="held")
        (job,) = manager.submit_all([record], RunConfig(server, SOON, 3600.0))
        eventually(lambda: "BGMAGIC_BUDGET" in (job.record.trouble or ""))
        assert priced.count("create") == 0
        given[0] = "20/day"
        assert job.result(LIMIT) == "x"
    finally:
        manager.close(60)


def test_a_quote_names_every_way(ask: Ask) -> None:
    """What a request can cost is told as it is, in the windows and in a batch; unbounded output is
    bounded by the model's context; without a price it says so."""
    set_own_prices({})
    server = "https://api.openai.com/v1"
    told = quote(ask(max_output_tokens=2000), server)
    tokens = TokenCounts(len(ask(max_output_tokens=2000).text) // 4 + 1, 2000)
    most = price_of_tokens(Terms("gpt-5.2"), server, tokens)
    assert most is not None
    assert (
        f"at most 2,000 come out: it can cost ${most:.3g} as it is, ${0.7 * most:.3g} in 2h" in told
    )
    assert f"${0.6 * most:.3g} in 8h, ${0.5 * most:.3g} in a batch." in told
    assert "bounded by the model's context only" in quote(ask(), server)
    # A character of other scripts than ours is about a token, not a quarter of one.
    assert ask("漢字" * 500).size - ask("").size == 3 * 1000
    assert "no price known for dream-9 at this server." in quote(ask(model="dream-9"), server)
    set_own_prices({"mine": Rates(4e-6, 4e-6, 4e-6, 1e-5)})
    unbounded = quote(ask(model="mine"), "http://own/v1")
    assert "what comes out has no bound without --max-output-tokens, and so no price" in unbounded
    assert "no price known" not in unbounded
    set_own_prices({})
    pro = quote(ask(model="gpt-5.2-pro", tier="flex", max_output_tokens=16), server)
    assert "no price known as it is" in pro


def test_costs_as_a_table(priced: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """costs() has a row a job, with what is not known missing."""
    monkeypatch.setenv("BGMAGIC_PRICES", json.dumps(PRICES))
    monkeypatch.setattr(app, "_manager", None)
    bgmagic.submit("Why?", window="8h", poll=0.05).result(LIMIT)
    frame = bgmagic.costs("today")
    assert app.manager.close(60)
    row = frame.iloc[-1]
    assert (row["model"], row["window"], row["tokens_out"]) == ("gpt-5.2", "8h", 90_000)
    assert (row["price"], row["saved"]) == pytest.approx((0.6, 0.4))
    with pytest.raises(BadInput, match="one of today, 7d, all, not 'tomorrow'"):
        bgmagic.costs("tomorrow")
