"""What a sweep asks, before anything is sent: its requests, their places, and what they may cost.

The points of a sweep are sweep.py's, one request submission.py's; sending them is grouping.py's.
"""

from __future__ import annotations

import os
import re
import uuid
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bgmagic import sweep
from bgmagic.errors import BadInput
from bgmagic.options import Settings
from bgmagic.place import Place
from bgmagic.pricing import Bill, bill
from bgmagic.request import Request
from bgmagic.session import session
from bgmagic.submission import make_request
from bgmagic.sweep import Items, Point
from bgmagic.template import Expression, Template, compile_template
from bgmagic.values import read_count

CONFIRM_ABOVE = 100  # jobs; a sweep of more needs its number agreed to
_ITEM = re.compile(r"\bitem\b")


@dataclass(frozen=True)
class Asked:
    """What a group is to ask, before anything is sent.

    Attributes:
        name: the variable that is to hold the group.
        settings: those of the whole group.
        items: what it goes over.
        requests: each job's request, in order.
        places: each job's place.
    """

    name: str
    settings: Settings
    items: Items
    points: Sequence[Point]
    requests: Sequence[Request]
    places: Sequence[Place]


def ask(text: str, settings: Settings, name: str, namespace: Mapping[str, Any]) -> Asked:
    """Work out what a sweep asks; nothing is sent.

    Raises:
        BadInput: an item, a setting or the template can't be used.
    """
    items = Items() if settings.each is None else sweep.items_of(settings.each, "--each")
    axes = sweep.read_axes(settings.sweep, "--sweep")
    points = sweep.points(settings, len(items.values), axes, settings.n or 1)
    template = compile_template(text)
    _check_uses_item(template, items)
    prompts = [_filled(template, items, number, namespace) for number in range(len(items.values))]
    made: dict[tuple[int, int], Request] = {}
    requests = []
    for point in points:
        # The samples of one request share it.
        which = point.item, id(point.settings)
        if which not in made:
            made[which] = make_request(prompts[point.item], point.settings)
        requests.append(made[which])
    return Asked(name, settings, items, points, requests, _places(settings, items, points))


def _check_uses_item(template: Template, items: Items) -> None:
    expressions = [piece.source for piece in template.pieces if isinstance(piece, Expression)]
    if len(items.values) > 1 and not any(_ITEM.search(source) for source in expressions):
        raise BadInput(
            f"the cell never names {{{{ item }}}}, so all {len(items.values)} items would ask the "
            f"same; to ask that several times, write --n {len(items.values)} instead of --each"
        )


def _filled(template: Template, items: Items, number: int, namespace: Mapping[str, Any]) -> str:
    item = {"item": items.values[number]} if items.kind else {}
    try:
        # The item comes before a variable of that name.
        filled = template.fill(ChainMap(item, namespace))  # type: ignore[arg-type]
    except BadInput as error:
        which = items.keys[number] if items.keys else number
        raise BadInput(f"--each, item {which!r}: {error}" if items.kind else str(error)) from None
    if filled.needs:
        raise BadInput(
            f"{filled.needs[0].name or 'a job'} has not ended, and a sweep does not wait for "
            f"others: %bgwait {filled.needs[0].name} first"
        )
    return filled.text


def _places(settings: Settings, items: Items, points: Sequence[Point]) -> list[Place]:
    group = uuid.uuid4().hex
    kept = [sweep.kept(value) for value in items.values]
    keys = [sweep.kept(key) for key in items.keys]
    return [
        Place(
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
    """How many jobs a sweep may have without its number being agreed to.

    Raises:
        BadInput: BGMAGIC_CONFIRM_ABOVE is no number.
    """
    configured = session.config.get("confirm_above")
    if configured is not None:
        return int(configured)
    given = os.environ.get("BGMAGIC_CONFIRM_ABOVE")
    return read_count(given, "BGMAGIC_CONFIRM_ABOVE") if given else CONFIRM_ABOVE


def check_agreed(asked: Asked) -> None:
    """Refuse a sweep whose number of jobs has to be agreed to, and is not.

    Raises:
        BadInput: says how many they are and what they may cost.
    """
    count, agreed = len(asked.requests), asked.settings.yes
    if agreed == count or (agreed is None and count <= confirm_above()):
        return
    not_these = "" if agreed is None else f", not {agreed}"
    raise BadInput(
        f"these are {count} jobs{not_these}{_factors(asked)}: {bill_of(asked)}. Nothing was sent; "
        f"--yes {count} agrees to them"
    )


def _factors(asked: Asked) -> str:
    """How the number comes about: " (80 items × 3 settings × 2 samples)"."""
    items, samples = len(asked.items.values), asked.settings.n or 1
    settings = len(asked.requests) // (items * samples)
    told = [(items, "items"), (settings, "settings"), (samples, "samples")]
    words = [f"{number} {what}" for number, what in told if number > 1]
    return f" ({' × '.join(words)})" if len(words) > 1 else ""


def bill_of(asked: Asked) -> Bill:
    """What the jobs may cost."""
    server = session.manager.destination().name
    return bill(
        (request.model, server, point.settings.max_output_tokens, len(request.text))
        for request, point in zip(asked.requests, asked.points, strict=True)
    )
