"""Plans a sweep before anything is sent: its requests, their positions, and their cost."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bgmagic.api.pricing import STANDARD_TIERS, CostEstimate, Terms, estimate_cost
from bgmagic.api.request_body import RequestTemplate
from bgmagic.api.server import ServerConfig
from bgmagic.errors import BadInput
from bgmagic.jobs.record import GroupPosition
from bgmagic.jobs.steps import FunctionRounds
from bgmagic.prompts.expressions import Expression
from bgmagic.prompts.template import RenderedPrompt, Template, compile_template
from bgmagic.submission.app import app
from bgmagic.submission.converters import to_count
from bgmagic.submission.settings import SubmitSettings
from bgmagic.submission.submit import (
    PreparedRequest,
    RequestParts,
    confirm_above_dollars,
    prepare_request,
    prepare_shared,
)
from bgmagic.sweeps import grid
from bgmagic.sweeps.grid import Items, SweepPoint, copy_of, snapshot_of
from bgmagic.text import count_jobs
from bgmagic.values import dataclass

LARGEST = 500_000_000  # bytes of all requests of a sweep: they are kept in memory, and written

AT_ONCE = 256  # jobs that are rendered in the cell; of a larger sweep most are rendered after it

CONFIRM_ABOVE = 100  # jobs; a sweep of more needs its number agreed to

_ITEM = re.compile(r"\bitem\b")


@dataclass(frozen=True)
class SweepPlan:
    """The jobs of a sweep, before anything is sent.

    Attributes:
        name: the variable that is to hold the group.
        settings: those of the whole group.
        items: what it goes over.
        server: where they go.
        prepared: what each job asks, in order.
        positions: each job's position in the group.
        later: whether ``prepared`` is rendered when it is looked at, after the cell has returned.
    """

    name: str
    server: ServerConfig
    settings: SubmitSettings
    items: Items
    points: Sequence[SweepPoint]
    prepared: Sequence[PreparedRequest]
    positions: Sequence[GroupPosition]
    later: bool = False

    @property
    def several(self) -> int:
        """Number of jobs of each item."""
        return len(self.points) // len(self.items.values)


def plan_sweep(
    text: str,
    settings: SubmitSettings,
    name: str,
    namespace: Mapping[str, Any],
    *,
    whole: bool = False,
) -> SweepPlan:
    """Plan a sweep; nothing is sent.

    Args:
        whole: render all of it now, also what could be rendered later.

    Raises:
        BadInput: an item, a setting or the template can't be used.
    """
    server = app.manager.destination()
    items = Items(settled=True) if settings.each is None else snapshot_of(settings.each, "--each")
    axes = grid.read_axes(settings.sweep, "--sweep")
    points = grid.grid(settings, len(items.values), axes, settings.n or 1)
    template = None if settings.raw else compile_template(text)
    _check_uses_item(() if template is None else template.pieces, items, settings)
    asked = Asked(text, items, dict(namespace), server)
    positions = _positions(settings, items, points)
    whole = whole or len(points) <= AT_ONCE or not _is_agreed(settings, len(points))
    later = None if whole else render_later(asked, settings, axes, template)
    if later is not None:
        points = later.points
        return SweepPlan(name, server, settings, items, points, later, positions, later=True)
    prepared = _all_rendered(asked, points)
    return SweepPlan(name, server, settings, items, points, prepared, positions)


def _is_agreed(settings: SubmitSettings, count: int) -> bool:
    """Whether so many jobs may be sent whatever they cost, so that nobody needs to know that."""
    if settings.yes is not None:
        return settings.yes == count
    return count <= confirm_above() and confirm_above_dollars() is None


@dataclass(frozen=True)
class Asked:
    """What the prompts of a sweep are made of.

    Attributes:
        text: the template.
        items: what it goes over.
        scope: the variables that it may name.
        server: where it goes.
    """

    text: str
    items: Items
    scope: dict[str, Any]
    server: ServerConfig

    def prepared(self, point: SweepPoint) -> PreparedRequest:
        """The request of one job.

        Raises:
            BadInput: it can't be asked; says which item.
        """
        if self.items.kind:
            # Hides a variable of that name.
            self.scope["item"] = self.items.values[point.item]
        try:
            prepared = prepare_request(self.text, point.settings, self.scope, self.server)
            if point.settings.batch:
                _check_batch(prepared)
        except BadInput as error:
            raise _of_item(error, point, self.items) from None
        return prepared


def _of_item(error: BadInput, point: SweepPoint, items: Items) -> BadInput:
    """The same error, naming the item that it is about."""
    which = items.keys[point.item] if items.keys else point.item
    message = str(error).replace(f"the {grid.ItemRow.__name__} has", "the row has")
    for name, _ in point.swept:
        message = message.replace(f"--param {name}", f"--sweep {name}")
    return BadInput(f"--each, item {which!r}: {message}" if items.kind else message)


def _all_rendered(asked: Asked, points: Sequence[SweepPoint]) -> list[PreparedRequest]:
    made: dict[tuple[int, int], PreparedRequest] = {}
    prepared, room = [], LARGEST
    for point in points:
        # The samples of one request share it.
        which = point.item, id(point.settings)
        if which not in made:
            made[which] = asked.prepared(point)
            room -= made[which].request.size
            if room < 0:
                raise _too_large(len(points))
        prepared.append(made[which])
    return prepared


def _too_large(count: int) -> BadInput:
    return BadInput(
        f"requests of these {count} jobs hold more than {LARGEST // 10**6} MB "
        "together; give a large --file by its http(s) address, which the server fetches"
    )


def _check_batch(prepared: PreparedRequest) -> None:
    """Refuse what can't go into a batch.

    Raises:
        BadInput: says what, and what to leave out.
    """
    request = prepared.request
    refused = {
        "--stream": request.streams,
        "--window": bool(request.window),
        f"--tier {request.tier}": request.tier not in STANDARD_TIERS,
    }
    for flag, given in refused.items():
        if given:
            raise BadInput(
                f"{flag} can't be had in a batch, which is done within 24 hours at half the price: "
                f"leave out {flag.split()[0]} or --batch"
            )
    if prepared.needs:
        names = ", ".join(prepared.waits_for)
        raise BadInput(f"a batch can't wait for {names}: send it when that has ended")


class PromptFiller:
    """Makes the requests of prompts that differ in their text alone, from one thread at a time."""

    def __init__(self, parts: RequestParts, server: ServerConfig) -> None:
        self._parts, self._server = parts, server
        self._templates: dict[int, tuple[SubmitSettings, RequestTemplate | None]] = {}

    def prepare(self, filled: RenderedPrompt, settings: SubmitSettings) -> PreparedRequest:
        """The same as `prepare_shared` makes, which does so where prompts differ in more.

        Raises:
            BadInput: as that does.
        """
        if id(settings) not in self._templates:
            self._templates[id(settings)] = settings, self._template(settings)
        _, template = self._templates[id(settings)]
        text = filled.text
        if template is None or not text.strip():
            return prepare_shared(filled, settings, self._parts, self._server)
        request = template.filled(text)
        return PreparedRequest(request, rounds=FunctionRounds.of(request, settings.max_rounds))

    def _template(self, settings: SubmitSettings) -> RequestTemplate | None:
        mark = uuid.uuid4().hex
        try:
            asked = prepare_shared(RenderedPrompt((mark,)), settings, self._parts, self._server)
            return RequestTemplate(asked.request, mark, self._server)
        except ValueError:  # also a BadInput, which each prompt has by itself
            return None


class LaterRequests(Sequence[PreparedRequest]):
    """The requests of a large sweep, each rendered when it is looked at. From one thread at a time.

    Attributes:
        points: what each is for.
    """

    def __init__(
        self,
        points: Sequence[SweepPoint],
        asked: Asked,
        template: Template,
        parts: RequestParts,
        ends: Sequence[PreparedRequest],
    ) -> None:
        self.points = points
        self._ends = {0: ends[0], len(points) - 1: ends[-1]}
        self._asked = asked
        self._template = template
        self._filler = PromptFiller(parts, asked.server)
        self._newest: tuple[int, int] | None = None
        self._made: PreparedRequest | BadInput | None = None
        self._room = LARGEST

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: Any) -> Any:
        """The request at ``index``.

        Raises:
            BadInput: it can't be asked; says which item.
        """
        if index in self._ends:
            return self._ends[index]
        point = self.points[index]
        which = point.item, id(point.settings)
        # The samples of one request share it, and come one after another.
        if which != self._newest:
            self._newest, self._made = which, self._rendered(point)
        if isinstance(self._made, BadInput):
            raise self._made
        return self._made

    def _rendered(self, point: SweepPoint) -> PreparedRequest | BadInput:
        asked = self._asked
        if asked.items.kind:
            asked.scope["item"] = asked.items.values[point.item]
        try:
            filled = self._template.render(asked.scope)
            made = self._filler.prepare(filled, point.settings)
            if point.settings.batch:
                _check_batch(made)
        except BadInput as error:
            return _of_item(error, point, asked.items)
        self._room -= made.request.size
        return made if self._room >= 0 else _too_large(len(self))


def render_later(
    asked: Asked, settings: SubmitSettings, axes: grid.Axes, template: Template | None
) -> LaterRequests | None:
    """The requests of a sweep to be rendered after the cell; None if they have to be rendered now.

    That is so if an item or a variable is not plain, a job that still runs is waited for, or a
    conversation is gone on with. The first and the last request are rendered here, so that mistakes
    are mostly told at once.

    Raises:
        BadInput: these two can't be asked.
    """
    items = asked.items
    if settings.continue_ is not None or not items.settled:
        return None
    given = copy_of([settings.messages, list(settings.param), [list(axis) for axis in axes]])
    if given is None:
        return None
    messages, param, copied = given
    kept = replace(settings, messages=messages, param=tuple(map(tuple, param)), each=None)
    axes = tuple((name, tuple(values)) for name, values in copied)
    points = grid.grid(kept, len(items.values), axes, settings.n or 1)
    ends = [asked.prepared(point) for point in (points[0], points[-1])]
    if any(end.needs for end in ends):
        return None
    if min(end.request.size for end in ends) * len(items.values) > LARGEST:
        raise _too_large(len(points))
    raw = Template((asked.text,))
    rest, names = (template or raw).settled(asked.scope, "item" if items.kind else "")
    values = copy_of(list(names.values()))
    if values is None:
        return None
    scope = dict(zip(names, values, strict=True))
    asked, parts = replace(asked, scope=scope), RequestParts.of(settings)
    return LaterRequests(points, asked, rest, parts, ends)


def _check_uses_item(
    pieces: Sequence[str | Expression], items: Items, settings: SubmitSettings
) -> None:
    expressions = [piece.source for piece in pieces if isinstance(piece, Expression)]
    if len(items.values) > 1 and not any(_ITEM.search(source) for source in expressions):
        why = (
            "--raw leaves {{ item }} as it stands"
            if settings.raw
            else "the cell never names {{ item }}"
        )
        raise BadInput(
            f"{why}, so all {len(items.values)} items would ask the "
            f"same; to ask that several times, write --n {len(items.values)} instead of --each"
        )


def _positions(
    settings: SubmitSettings, items: Items, points: Sequence[SweepPoint]
) -> Sequence[GroupPosition]:
    group = uuid.uuid4().hex
    size, in_flight, samples = len(points), settings.max_in_flight, settings.n or 1

    def position(index: int) -> GroupPosition:
        point = points[index]
        return GroupPosition(
            group=group,
            name=settings.out,
            index=index,
            size=size,
            in_flight=in_flight,
            kind=items.kind,
            key=grid.json_copy(items.keys[point.item]) if items.keys else None,
            item=grid.json_copy(items.values[point.item]),
            settings=point.swept,
            sample=point.sample,
            samples=samples,
        )

    return grid.LazyList(size, position)


# Before it costs.


def confirm_above() -> int:
    """Number of jobs that a sweep may have without being confirmed.

    Raises:
        BadInput: BGMAGIC_CONFIRM_ABOVE is no number.
    """
    number: int | None = app.setting("confirm_above", to_count)
    return CONFIRM_ABOVE if number is None else number


def require_confirmation(plan: SweepPlan) -> None:
    """Refuse a sweep whose number of jobs has to be confirmed, and is not.

    Raises:
        BadInput: says how many they are and what they may cost.
    """
    count, agreed = len(plan.prepared), plan.settings.yes
    if agreed == count or (agreed is None and count <= confirm_above() and not _is_dear(plan)):
        return
    not_these = "" if agreed is None else f", not {agreed}"
    raise BadInput(
        f"these are {count} jobs{not_these}{count_formula(plan)}: {estimated_cost(plan)}. "
        "Nothing was sent; "
        f"--yes {count} agrees to them"
    )


def _is_dear(plan: SweepPlan) -> bool:
    """Whether the jobs can cost more than the user wants to be asked about, or nobody knows."""
    limit = confirm_above_dollars()
    most = None if limit is None else estimated_cost(plan).most
    return limit is not None and (most is None or most > limit)


def count_formula(plan: SweepPlan) -> str:
    """Write the factors of the number of jobs: " (80 items × 3 settings × 2 samples)"."""
    items, samples = len(plan.items.values), plan.settings.n or 1
    settings = len(plan.prepared) // (items * samples)
    factors = [(items, "items"), (settings, "settings"), (samples, "samples")]
    words = [f"{number} {what}" for number, what in factors if number > 1]
    return f" ({' × '.join(words)})" if len(words) > 1 else ""


def estimated_cost(plan: SweepPlan) -> CostEstimate:
    """What the jobs may cost."""
    return estimate_cost(
        (Terms.of(request), plan.server.name, request.max_output_tokens, request.size)
        for request in (one.request for one in plan.prepared)
    )


def dry_run(text: str, settings: SubmitSettings, namespace: Mapping[str, Any]) -> str:
    """Describe a sweep: how many jobs, what they may cost, and the first of them.

    Raises:
        BadInput: there can't be such a sweep.
    """
    from bgmagic.submission.dry_run import describe_request

    plan = plan_sweep(text, settings, settings.out or "group", namespace, whole=True)
    jobs = f"{count_jobs(len(plan.prepared))}{count_formula(plan)}"
    cost = f"{jobs}: {estimated_cost(plan)}. The first:"
    return f"{cost}\n{describe_request(plan.prepared[0], app.secrets(), plan.server.name)}"
