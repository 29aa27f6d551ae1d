"""Jobs of the journal as the panel shows them: rows without texts, and one job with its answer."""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Collection, Mapping
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bgmagic.display.listing import sentence
from bgmagic.display.static_html import footer_text, remedy, text_html
from bgmagic.jobs.export import prompt_of
from bgmagic.runtime.attach import NoController, past_job
from bgmagic.storage.database import StoredJob
from bgmagic.storage.reader import LISTED, NEWS, ONE, JournalReader
from bgmagic.submission.costs import cost_of
from bgmagic.text import one_line

MOST = 20_000  # jobs of a list; the older ones are in the journal

OVERLAP = 60.0  # seconds: clocks of kernels, and the order of their writes, differ by less

PROMPT = 2_000  # characters of a prompt that are shown


class JobRows:
    """The jobs of the journal as rows for the panel, priced once."""

    def __init__(self, reader: JournalReader, root: Path | None) -> None:
        """Make them.

        Args:
            root: the folder that the server's paths count from, where it has one.
        """
        self._reader = reader
        self._root = root
        self._prices: dict[str, float | None] = {}

    def listed(
        self, since: float | None, homes: Mapping[str, str] = MappingProxyType({})
    ) -> dict[str, Any]:
        """The newest jobs as JSON, or, after a moment in seconds since the epoch, its news: what is
        open, and what has ended since.

        Args:
            homes: the notebooks of living kernels by `home_of`: they may have been renamed since.
        """
        now = time.time()
        if since is None:
            entries = self._reader.select(LISTED, limit=MOST)
        else:
            entries = self._reader.select(NEWS, since=since - OVERLAP)
        entries = [entry for entry in entries if _is_sound(entry)]
        owners = {
            entry.owner
            for entry in entries
            if entry.owner and (entry.ended_at is None or home_of(entry.owner) in homes)
        }
        alive = self._reader.followed(owners)
        rows = []
        for entry in entries:
            home = homes.get(home_of(entry.owner)) if entry.owner in alive else None
            rows.append(self._row(entry, alive, home))
        return {"jobs": rows, "count": self._reader.count(), "at": now}

    def one(self, key: str) -> dict[str, Any] | None:
        """One job with its prompt and what it gave, as it is rendered in a notebook; None if the
        journal does not have it."""
        found = self._reader.select(ONE, brief=False, it=key)
        if not found:
            return None
        try:
            return _details(found[0])
        except Exception as error:  # SQLite keeps anything in any column
            about = f"The journal's row of this job can't be read: {type(error).__name__}"
            return {"html": "", "message": about, "remedy": "", "footer": "", "prompt": ""}

    def _row(self, entry: StoredJob, alive: Collection[str], home: str | None) -> dict[str, Any]:
        ended = entry.ended_at is not None
        row = {
            "key": entry.key,
            "name": one_line(entry.name or "", 80),
            "status": one_line(entry.status, 40),
            "open": not ended,
            "followed": not ended and entry.owner in alive,
            "notebook": _last(home or entry.notebook),
            "path": home or self._path(entry.notebook),
            "model": one_line(entry.model, 80),
            "effort": entry.effort or "",
            "submitted": entry.created_at,
            "ended": entry.ended_at,
            "price": self._price(entry) if ended else None,
            "id": one_line(entry.response_id or "", 120),
            "group": entry.group_key,
            "group_name": entry.group_name or "",
        }
        # Of ten thousand rows what says nothing is half.
        return {name: value for name, value in row.items() if value not in (None, "", False)}

    def _path(self, notebook: str) -> str | None:
        """The notebook's path at this server, if it lies in its folder and is a file."""
        if notebook.endswith(_ENDS):
            return None
        try:
            return Path(notebook).relative_to(self._root).as_posix() if self._root else None
        except ValueError:
            return None

    def _price(self, entry: StoredJob) -> float | None:
        if entry.key not in self._prices:
            cost = None
            with contextlib.suppress(Exception):  # of what nobody of ours has written
                cost = cost_of(entry)
            self._prices[entry.key] = None if cost is None else cost.charge.price
        return self._prices[entry.key]


_ENDS = ("/", os.sep)  # of a folder: `place` has it for a terminal, or a notebook without a page


def _last(notebook: str) -> str:
    """A notebook's, a script's or a folder's own name, a folder's with the separator."""
    return notebook[max(notebook.rfind(end, 0, -1) for end in _ENDS) + 1 :]


def home_of(owner: str | None) -> str:
    """Of an owner's id its host and its process."""
    return (owner or "").rpartition("-")[0]


_KEY = re.compile(r"[\w-]{1,80}", re.ASCII)  # it becomes a part of a cell that attaches the job

_texts_of = attrgetter(
    "key", "notebook", "name", "server", "status", "owner", "model", "effort", "response_id",
    "group_key", "group_name",
)  # fmt: skip


def _is_sound(entry: StoredJob) -> bool:
    """Whether it has what its columns are for: one that has not is left out, and hides no other."""
    times: tuple[Any, ...] = (entry.created_at, 0.0 if entry.ended_at is None else entry.ended_at)
    return (
        all(text is None or isinstance(text, str) for text in _texts_of(entry))
        and _KEY.fullmatch(entry.key) is not None
        and all(isinstance(at, int | float) and math.isfinite(at) for at in times)
    )


def _details(entry: StoredJob) -> dict[str, Any]:
    job = past_job(entry, NoController())
    trouble = job.error
    return {
        "html": text_html(job),
        "message": sentence(str(trouble)) if trouble else "",
        "remedy": remedy(job) if trouble else "",
        # Of an open one all but its id would soon be wrong.
        "footer": footer_text(job) if job.done() else one_line(entry.response_id or "", 120),
        "prompt": prompt_of(job.request.body, others=True)[:PROMPT],
    }
