"""Plans a sweep before anything is sent: its requests, their positions, and their cost."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bgmagic.api.pricing import STANDARD_TIERS, CostEstimate, Terms, estimate_cost
from bgmagic.api.server import ServerConfig
from bgmagic.errors import BadInput
from bgmagic.jobs.record import GroupPosition
from bgmagic.prompts.expressions import Expression
from bgmagic.prompts.template import compile_template
from bgmagic.submission.app import app
from bgmagic.submission.converters import to_count
from bgmagic.submission.settings import SubmitSettings
from bgmagic.submission.submit import PreparedRequest, confirm_above_dollars, prepare_request
from bgmagic.sweeps import grid
from bgmagic.sweeps.grid import Items, SweepPoint
from bgmagic.text import count_jobs

LARGEST = 500_000_000  # characters of all requests of a sweep: they are kept in memory, and written

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
    """

    name: str
    server: ServerConfig
    settings: SubmitSettings
    items: Items
    points: Sequence[SweepPoint]
    prepared: Sequence[PreparedRequest]
    positions: Sequence[GroupPosition]

    @property
    def several(self) -> int:
        """Number of jobs of each item."""
        return len(self.points) // len(self.items.values)


def plan_sweep(
    text: str, settings: SubmitSettings, name: str, namespace: Mapping[str, Any]
) -> SweepPlan:
    """Plan a sweep; nothing is sent.

    Raises:
        BadInput: an item, a setting or the template can't be used.
    """
    server = app.manager.destination()
    items = Items() if settings.each is None else grid.items_of(settings.each, "--each")
    axes = grid.read_axes(settings.sweep, "--sweep")
    points = grid.grid(settings, len(items.values), axes, settings.n or 1)
    _check_uses_item(() if settings.raw else compile_template(text).pieces, items, settings)
    made: dict[tuple[int, int], PreparedRequest] = {}
    prepared, room = [], LARGEST
    scope = dict(namespace)
    for point in points:
        # The samples of one request share it.
        which = point.item, id(point.settings)
        if which not in made:
            made[which] = _prepared(text, point, items, scope, server)
            room -= len(made[which].request.text)
            if room < 0:
                raise BadInput(
                    f"requests of these {len(points)} jobs hold more than {LARGEST // 10**6} MB "
                    "together; give a large --file by its http(s) address, which the server fetches"
                )
        prepared.append(made[which])
    return SweepPlan(
        name, server, settings, items, points, prepared, _positions(settings, items, points)
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


def _prepared(
    text: str, point: SweepPoint, items: Items, scope: dict[str, Any], server: ServerConfig
) -> PreparedRequest:
    if items.kind:
        # Hides a variable of that name.
        scope["item"] = items.values[point.item]
    try:
        prepared = prepare_request(text, point.settings, scope, server)
        if point.settings.batch:
            _check_batch(prepared)
    except BadInput as error:
        which = items.keys[point.item] if items.keys else point.item
        told = str(error).replace(f"the {grid.ItemRow.__name__} has", "the row has")
        for name, _ in point.swept:
            told = told.replace(f"--param {name}", f"--sweep {name}")
        raise BadInput(f"--each, item {which!r}: {told}" if items.kind else told) from None
    return prepared


def _positions(
    settings: SubmitSettings, items: Items, points: Sequence[SweepPoint]
) -> list[GroupPosition]:
    group = uuid.uuid4().hex
    kept = [grid.json_copy(value) for value in items.values]
    keys = [grid.json_copy(key) for key in items.keys]
    return [
        GroupPosition(
            group=group,
            name=settings.out,
            index=index,
            size=len(points),
            in_flight=settings.max_in_flight,
            kind=items.kind,
            key=keys[point.item] if keys else None,
            item=kept[point.item],
            settings=point.swept,
            sample=point.sample,
            samples=settings.n or 1,
        )
        for index, point in enumerate(points)
    ]


# Before it costs.


def confirm_above() -> int:
    """Number of jobs that a sweep may have without being confirmed.

    Raises:
        BadInput: BGMAGIC_CONFIRM_ABOVE is no number.
    """
    configured = app.shell.defaults().get("confirm_above")
    if configured is not None:
        return int(configured)
    given = os.environ.get("BGMAGIC_CONFIRM_ABOVE")
    return to_count(given, "BGMAGIC_CONFIRM_ABOVE") if given else CONFIRM_ABOVE


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
    told = [(items, "items"), (settings, "settings"), (samples, "samples")]
    words = [f"{number} {what}" for number, what in told if number > 1]
    return f" ({' × '.join(words)})" if len(words) > 1 else ""


def estimated_cost(plan: SweepPlan) -> CostEstimate:
    """What the jobs may cost."""
    return estimate_cost(
        (Terms.of(request), plan.server.name, request.max_output_tokens, len(request.text))
        for request in (one.request for one in plan.prepared)
    )


def dry_run(text: str, settings: SubmitSettings, namespace: Mapping[str, Any]) -> str:
    """Describe a sweep: how many jobs, what they may cost, and the first of them.

    Raises:
        BadInput: there can't be such a sweep.
    """
    from bgmagic.submission.dry_run import describe_request

    plan = plan_sweep(text, settings, settings.out or "group", namespace)
    jobs = f"{count_jobs(len(plan.prepared))}{count_formula(plan)}"
    told = f"{jobs}: {estimated_cost(plan)}. The first:"
    return f"{told}\n{describe_request(plan.prepared[0], app.secrets(), plan.server.name)}"
