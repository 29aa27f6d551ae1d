"""What jobs cost by the journal: receipts of what was paid, and the budget that is left.

The journal is that of all kernels of a user, and so are receipts and budgets.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from bgmagic.api.pricing import BATCH, Billing, Charge, Terms, price_of_tokens
from bgmagic.api.request import Request
from bgmagic.api.response import TokenCounts
from bgmagic.errors import BadInput
from bgmagic.jobs.record import JobRecord, Status
from bgmagic.text import count_jobs, dollars
from bgmagic.values import dataclass

if TYPE_CHECKING:
    from bgmagic.storage.database import StoredJob
    from bgmagic.storage.job_store import JobStore

PERIODS = ("today", "7d", "all")  # of a receipt

REREAD = 2.0  # seconds for which what other kernels have paid is not looked up again

Receipt = tuple[list[tuple[str, ...]], str]  # lines with cells as `HEADS` says; a sentence or ""

OVERLAP = 120.0  # seconds: clocks of kernels, and the order of their writes, differ by less

_FREE = "bgmagic.local"  # the embedded model costs nothing


@dataclass(frozen=True)
class JobCost:
    """What one job of the journal cost.

    Attributes:
        key: our own name of the job.
        submitted_at, ended_at: seconds since the epoch; None is "not yet".
        notebook: where it was sent from, or "".
        name: its variable, or "".
        model, window, tier: as asked for; "" is none, and the window of a batch is "batch".
        status: its status.
        tokens_in, tokens_out: as the server counted them, or None.
        charge: what it cost; while it is open, what the rounds of its calls did so far.
        most: what the request that is at the server can cost at most, or None where that is not
            known; 0 between two rounds.
    """

    key: str
    submitted_at: float
    ended_at: float | None
    notebook: str
    name: str
    model: str
    window: str
    tier: str
    status: str
    tokens_in: int | None
    tokens_out: int | None
    charge: Charge
    most: float | None

    @property
    def unknown(self) -> bool:
        """Whether it has ended, and nobody knows what it cost."""
        return self.ended_at is not None and self.charge.price is None


def cost_of(entry: StoredJob) -> JobCost | None:
    """What a job of the journal cost; None if it costs nothing: never sent, or answered here."""
    ended = entry.ended_at is not None
    billing = Billing.read(entry.billing) if entry.billing else _billing_of(entry)
    never = entry.response_id is None and billing.response is None  # of no round either
    if ended and never and entry.status != Status.UNKNOWN:
        return None
    waits = entry.status == Status.WAITING
    if waits and billing.response is None:
        return None
    charge = billing.charge(entry.server)
    most = None if ended else 0.0 if waits else billing.most(entry.server)
    if entry.server == _FREE and charge.price is None and not most:
        return None
    tokens = TokenCounts.of((billing.response or {}).get("usage"))
    return JobCost(
        key=entry.key,
        submitted_at=entry.created_at,
        ended_at=entry.ended_at,
        notebook=entry.notebook,
        name=entry.name or "",
        model=entry.model,
        # A batch has a window of its own, of 24 hours, and no tier.
        window=BATCH if billing.terms.tier == BATCH else billing.terms.window,
        tier="" if billing.terms.tier == BATCH else billing.terms.tier,
        status=entry.status,
        tokens_in=tokens.input if tokens else None,
        tokens_out=tokens.output if tokens else None,
        charge=charge,
        most=most,
    )


def _billing_of(entry: StoredJob) -> Billing:
    """The billing of a job that an older bgmagic wrote down."""
    response = json.loads(entry.response) if entry.response else None
    return Billing.of(Request(entry.request or "{}"), response)


def costs_since(store: JobStore, since: float) -> list[JobCost]:
    """What the jobs cost that ended since then, or are at the server; oldest first."""
    return [cost for entry in store.billed(since) if (cost := cost_of(entry)) is not None]


def start_of(period: str, now: float) -> float:
    """When a period of `PERIODS` began, seconds since the epoch; a day begins at midnight here."""
    if period == "all":
        return 0.0
    return now - 7 * 86400 if period == "7d" else _midnight(now)


def _midnight(now: float, days_before: int = 0, day_of_month: int | None = None) -> float:
    local = time.localtime(now)
    day = (local.tm_mday if day_of_month is None else day_of_month) - days_before
    return time.mktime((local.tm_year, local.tm_mon, day, 0, 0, 0, 0, 0, -1))


# Receipts.


@dataclass(frozen=True)
class CostLine:
    """What jobs of one notebook, model and window cost together.

    Attributes:
        notebook, model, window: as of these jobs; "" is none.
        jobs: how many they are.
        open: those of them that have not ended.
        unknown: those that have, and of which nobody knows what they cost.
        tokens_in, tokens_out: as far as they were counted.
        paid, saved: US dollars, of those whose price is known; saved against the standard price.
    """

    notebook: str = ""
    model: str = ""
    window: str = ""
    jobs: int = 0
    open: int = 0
    unknown: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    paid: float = 0.0
    saved: float = 0.0

    def plus(self, cost: JobCost) -> CostLine:
        """The line with one more job."""
        return replace(
            self,
            jobs=self.jobs + 1,
            open=self.open + (cost.ended_at is None),
            unknown=self.unknown + cost.unknown,
            tokens_in=self.tokens_in + (cost.tokens_in or 0),
            tokens_out=self.tokens_out + (cost.tokens_out or 0),
            paid=self.paid + (cost.charge.price or 0.0),
            saved=self.saved + (cost.charge.saved or 0.0),
        )

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands under `HEADS`; what is not known is not told as 0."""
        known = self.jobs - self.open - self.unknown > 0 or self.paid > 0
        counts = [str(count) if count else "" for count in (self.open, self.unknown)]
        tokens = [f"{count:,}" if count else "" for count in (self.tokens_in, self.tokens_out)]
        paid = dollars(self.paid) if known else ""
        saved = _signed(self.saved) if known and abs(self.saved) > 1e-9 else ""
        asked = self.notebook, self.model, self.window
        return (*asked, str(self.jobs), *tokens, paid, saved, *counts)


HEADS = (
    "notebook", "model", "window", "jobs", "tokens in", "tokens out", "paid", "saved", "open",
    "price not known",
)  # fmt: skip


def _signed(amount: float) -> str:
    return dollars(amount) if amount >= 0 else f"-{dollars(-amount)}"


def receipt(costs: Iterable[JobCost]) -> list[CostLine]:
    """The costs by notebook, model and window, the dearest first, and their sum as the last."""
    lines: dict[tuple[str, str, str], CostLine] = {}
    total = CostLine("in all")
    for cost in costs:
        key = cost.notebook, cost.model, cost.window
        lines[key] = lines.get(key, CostLine(*key)).plus(cost)
        total = total.plus(cost)
    return [*sorted(lines.values(), key=lambda line: (-line.paid, -line.jobs)), total]


def receipt_cells(lines: Sequence[CostLine]) -> list[tuple[str, ...]]:
    """What stands under `HEADS` in each line: of a notebook its file's name, unless another has the
    same, since whole paths would leave the sums no room."""
    short = {line.notebook: PurePath(line.notebook).name for line in lines}
    counts = Counter(short.values())
    shown = {path: name if counts[name] == 1 else path for path, name in short.items()}
    return [(shown[line.notebook], *line.cells[1:]) for line in lines]


def cost_row(cost: JobCost) -> dict[str, Any]:
    """One job as a row of a table: what is not known is None, never 0."""
    told = {name: value for name, value in vars(cost).items() if name not in ("charge", "most")}
    return told | {"price": cost.charge.price, "saved": cost.charge.saved}


# The budget.


@dataclass(frozen=True)
class Budget:
    """What may be spent in a day, a week or a month of the calendar.

    Attributes:
        amount: US dollars.
        period: "day", "week" or "month".
    """

    amount: float
    period: str

    def __str__(self) -> str:
        return f"{dollars(self.amount)}/{self.period}"

    def start(self, now: float) -> float:
        """When the period that ``now`` lies in began, seconds since the epoch."""
        if self.period == "month":
            return _midnight(now, day_of_month=1)
        return _midnight(now, time.localtime(now).tm_wday if self.period == "week" else 0)


def to_budget(value: Any, label: str) -> Budget:
    """Read a budget, as "20/day"; one that is read already stays what it is.

    Raises:
        BadInput: it is no budget.
    """
    if isinstance(value, Budget):  # `%config` reads what it has read once more
        return value
    found = re.fullmatch(
        r"\$?(\d+|\d{1,3}(?:,\d{3})+)(\.\d+)? ?/ ?(day|week|month)", str(value).strip()
    )
    if found is None:
        raise BadInput(f'{label} {value!r}: write dollars a day, week or month, as "20/day"')
    return Budget(float(found[1].replace(",", "") + (found[2] or "")), found[3])


@dataclass(frozen=True)
class Spent:
    """What a budget has left.

    Attributes:
        paid: US dollars that ended jobs cost, and rounds of others.
        bound: what those that are at the server, or about to be, cost at most.
        unknown: how many jobs there are of neither of which a price is known.
    """

    paid: float
    bound: float
    unknown: int

    def __str__(self) -> str:
        under_way = f", at most {dollars(self.bound)} more are under way" if self.bound else ""
        without = f", without {count_jobs(self.unknown)} of no known price" if self.unknown else ""
        return f"{dollars(self.paid) or '$0'} spent{under_way}{without}"


class BudgetGate:
    """Lets jobs be sent as long as they can't go over the budget. From any thread."""

    def __init__(
        self,
        store: JobStore,
        budget: Callable[[], Budget | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Make it.

        Args:
            store: has the jobs of all kernels.
            budget: tells the budget of the moment, if there is one.
        """
        self._store = store
        self._budget = budget
        self._clock = clock
        self._lock = threading.Lock()
        self._ended: dict[str, JobCost] = {}
        self._open: dict[str, JobCost] = {}
        self._admitted: dict[str, float | None] = {}
        self._read_at = self._read_to = 0.0
        self._from = math.inf

    def is_set(self) -> bool:
        """Whether there is a budget; one that can't be read holds jobs back too."""
        try:
            return self._budget() is not None
        except BadInput:
            return True

    def refusal(self, record: JobRecord) -> str | None:
        """Why the job can't be sent now, in one line; None counts it as sent."""
        return self.refusal_all([record])

    def refusal_all(self, records: Sequence[JobRecord]) -> str | None:
        """Why the jobs can't be sent now, all together; None counts them as sent."""
        try:
            budget = self._budget()
        except BadInput as error:
            return str(error)
        if budget is None:
            return None
        with self._lock:
            new = [record for record in records if _admission(record) not in self._admitted]
            most = {
                _admission(record): Billing.of(record.request).most(record.server) for record in new
            }
            if all(_is_free(record.request, record.server) for record in new):
                return None
            known = [bound for bound in most.values() if bound is not None]
            why = self._over(budget, sum(known) if known else None)
            if why is None:
                self._admitted |= most
            return why

    def check(self, requests: Sequence[Request], server: str) -> str:
        """What to tell of requests that are about to be submitted, all or none, or "".

        Raises:
            BadInput: it could go over the budget.
        """
        budget = self._budget()
        if budget is None:
            return ""
        if all(_is_free(request, server) for request in requests):
            return ""
        bounds = [Billing.of(request).most(server) for request in requests]
        most = None if None in bounds else sum(bound or 0.0 for bound in bounds)
        with self._lock:
            why = self._over(budget, most)
        if why is not None:
            bounded = all(request.max_output_tokens for request in requests)
            bound = "" if bounded else ", --max-output-tokens bounds the price"
            raise BadInput(
                f"{why}. Nothing was sent; --over-budget sends it all the same{bound}, and "
                "%bgcost tells what was spent"
            )
        if most is not None:
            return ""
        if all(_unit_price(request, server) is not None for request in requests):
            why = "what it can cost has no bound without --max-output-tokens"
            return f"{why}, so the budget of {budget} counts it only once it has ended"
        return f"its price is not known, so the budget of {budget} does not count it"

    def _over(self, budget: Budget, most: float | None) -> str | None:
        spent = self._spent(budget)
        if spent.paid + spent.bound + (most or 0.0) <= budget.amount:
            return None
        costs = "" if most is None else f"this can cost {dollars(most)}, and "
        return f"{costs}the budget of {budget} has {spent}"

    def _spent(self, budget: Budget) -> Spent:
        now = self._clock()
        start = budget.start(now)
        # After the clock was set back, what has ended since would seem to be known.
        if start < self._from or now < self._read_at:
            self._read(start, now)
            self._from = start
        elif now - self._read_at >= REREAD:
            self._read(self._read_to, now)
        ended = [cost for cost in self._ended.values() if (cost.ended_at or 0.0) >= start]
        bounds = [*(cost.most for cost in self._open.values()), *self._admitted.values()]
        return Spent(
            paid=sum(cost.charge.price or 0.0 for cost in [*ended, *self._open.values()]),
            bound=sum(bound or 0.0 for bound in bounds),
            unknown=sum(cost.unknown for cost in ended) + sum(b is None for b in bounds),
        )

    def _read(self, since: float, now: float) -> None:
        """Take in what the journal has of what ended since then, and of what is open."""
        self._open = {}
        known = [key for key, one in self._ended.items() if (one.ended_at or 0.0) >= since]
        for entry in self._store.billed(since, known):
            cost = cost_of(entry)
            self._drop(entry.key)  # what was let pass is in the journal by now
            if cost is not None and cost.ended_at is None:
                self._open[cost.key] = cost
            elif cost is not None:
                self._ended[cost.key] = cost
        self._read_at, self._read_to = now, now - OVERLAP

    def _drop(self, key: str) -> None:
        self._admitted.pop(key, None)
        number = 1
        while f"{key}/{number}" in self._admitted:
            del self._admitted[f"{key}/{number}"]
            number += 1


def _is_free(request: Request, server: str) -> bool:
    """Whether the embedded model answers it, which has a price only where its user says one."""
    return server == _FREE and _unit_price(request, server) is None


def _unit_price(request: Request, server: str) -> float | None:
    return price_of_tokens(Terms.of(request), server, TokenCounts(1, 1))


def _admission(record: JobRecord) -> str:
    """What is let pass: a job, or the next round of calls of its functions, which costs again."""
    done = 0 if record.rounds is None else len(record.rounds.done)
    return f"{record.key}/{done}" if done else record.key
