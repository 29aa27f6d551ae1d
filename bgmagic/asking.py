"""What a sweep asks, before anything is sent: its requests, their places, and what they may cost.

The points of a sweep are sweep.py's, one request submission.py's; sending them is grouping.py's.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bgmagic import sweep
from bgmagic.composing import Composed
from bgmagic.errors import BadInput
from bgmagic.expressions import Expression
from bgmagic.options import Settings
from bgmagic.place import Place
from bgmagic.pricing import Bill, bill
from bgmagic.session import session
from bgmagic.submission import compose_prompt
from bgmagic.sweep import Items, Point
from bgmagic.template import compile_template
from bgmagic.values import read_count

LARGEST = 500_000_000  # characters of all requests of a sweep: they are kept in memory, and written
CONFIRM_ABOVE = 100  # jobs; a sweep of more needs its number agreed to
_ITEM = re.compile(r"\bitem\b")


@dataclass(frozen=True)
class Asked:
    """What a group is to ask, before anything is sent.

    Attributes:
        name: the variable that is to hold the group.
        settings: those of the whole group.
        items: what it goes over.
        composed: what each job asks, in order.
        places: each job's place.
    """

    name: str
    settings: Settings
    items: Items
    points: Sequence[Point]
    composed: Sequence[Composed]
    places: Sequence[Place]

    @property
    def several(self) -> int:
        """How many jobs each item has."""
        return len(self.points) // len(self.items.values)


def ask(text: str, settings: Settings, name: str, namespace: Mapping[str, Any]) -> Asked:
    """Work out what a sweep asks; nothing is sent.

    Raises:
        BadInput: an item, a setting or the template can't be used.
    """
    items = Items() if settings.each is None else sweep.items_of(settings.each, "--each")
    axes = sweep.read_axes(settings.sweep, "--sweep")
    points = sweep.points(settings, len(items.values), axes, settings.n or 1)
    _check_uses_item(() if settings.raw else compile_template(text).pieces, items, settings)
    made: dict[tuple[int, int], Composed] = {}
    composed, room = [], LARGEST
    scope = dict(namespace)
    for point in points:
        # The samples of one request share it.
        which = point.item, id(point.settings)
        if which not in made:
            made[which] = _composed(text, point, items, scope)
            room -= len(made[which].request.text)
            if room < 0:
                raise BadInput(
                    f"requests of these {len(points)} jobs hold more than {LARGEST // 10**6} MB "
                    "together; give a large --file by its http(s) address, which the server fetches"
                )
        composed.append(made[which])
    return Asked(name, settings, items, points, composed, _places(settings, items, points))


def _check_uses_item(pieces: Sequence[str | Expression], items: Items, settings: Settings) -> None:
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


def _composed(text: str, point: Point, items: Items, scope: dict[str, Any]) -> Composed:
    if items.kind:
        # Before a variable of that name.
        scope["item"] = items.values[point.item]
    try:
        return compose_prompt(text, point.settings, scope)
    except BadInput as error:
        which = items.keys[point.item] if items.keys else point.item
        told = _about_columns(str(error), items.values[point.item])
        for name, _ in point.swept:
            told = told.replace(f"--param {name}", f"--sweep {name}")
        raise BadInput(f"--each, item {which!r}: {told}" if items.kind else told) from None


def _about_columns(told: str, item: object) -> str:
    """What Jinja says of a row that lacks an attribute, in the words of a table."""
    jinjas = f"'{type(item).__module__}.{type(item).__qualname__} object' has no attribute"
    if not isinstance(item, sweep.Row) or jinjas not in told:
        return told
    columns = ", ".join(list(item)[:8])
    return f"{told.replace(jinjas, 'the row has no column')}; it has {columns}"


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
    count, agreed = len(asked.composed), asked.settings.yes
    if agreed == count or (agreed is None and count <= confirm_above()):
        return
    not_these = "" if agreed is None else f", not {agreed}"
    raise BadInput(
        f"these are {count} jobs{not_these}{factors(asked)}: {bill_of(asked)}. Nothing was sent; "
        f"--yes {count} agrees to them"
    )


def factors(asked: Asked) -> str:
    """How the number comes about: " (80 items × 3 settings × 2 samples)"."""
    items, samples = len(asked.items.values), asked.settings.n or 1
    settings = len(asked.composed) // (items * samples)
    told = [(items, "items"), (settings, "settings"), (samples, "samples")]
    words = [f"{number} {what}" for number, what in told if number > 1]
    return f" ({' × '.join(words)})" if len(words) > 1 else ""


def bill_of(asked: Asked) -> Bill:
    """What the jobs may cost."""
    server = session.manager.destination().name
    return bill(
        (one.request.model, server, _most_output(one, point), len(one.request.text))
        for one, point in zip(asked.composed, asked.points, strict=True)
    )


def _most_output(one: Composed, point: Point) -> int | None:
    """The output tokens that a job may have at most, also where they came as a request field."""
    settings = point.settings
    if any(name == "max_output_tokens" for name, _ in settings.param):
        given = one.request.body.get("max_output_tokens")
        return given if isinstance(given, int) else None
    return settings.max_output_tokens
