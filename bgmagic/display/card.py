"""The card: the live status display of one job, an ordinary widget.

Watches the job and sends the browser one small message for each change; the seconds tick there.
What it shows is drawn by card.js, text only. Where no widget can be shown, `line` says it in words.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from bgmagic.errors import readable
from bgmagic.job import Job
from bgmagic.status import Status

_HERE = Path(__file__).parent


class Card(anywidget.AnyWidget):
    """A live display of ``job``.

    Attributes:
        view: what the browser draws, see `snapshot`.
    """

    _esm = _HERE / "card.js"
    _css = _HERE / "card.css"
    view = traitlets.Dict().tag(sync=True)

    def __init__(self, job: Job, **traits: Any) -> None:
        """Make the card; it follows the job from now on."""
        self._earlier: Job | None = None
        known = job.record
        super().__init__(view=snapshot(job), **traits)
        self._job = job
        self.on_msg(_clicked)
        job.add_listener(self._refresh)
        if job.record is not known:
            self._refresh(job)  # what happened before the listener was there

    def _refresh(self, job: Job) -> None:
        if job is self._job:
            self.view = snapshot(job) | {"earlier": self._about_earlier()}

    def _about_earlier(self) -> str:
        earlier = self._earlier
        if earlier is None or earlier.done():
            return ""
        which = earlier.response_id or "not accepted yet"
        return f"An earlier job for this name goes on ({which})"

    def mention(self, earlier: Job) -> None:
        """Say that ``earlier``, another job for the same variable, still runs; offer to cancel."""
        self._earlier = earlier
        earlier.add_listener(lambda _: self._refresh(self._job))
        self._refresh(self._job)

    def bundle(self) -> dict[str, Any]:
        """What displaying the card sends: the widget, and a line for where there are none."""
        found = super()._repr_mimebundle_()
        data: dict[str, Any] = found[0] if isinstance(found, tuple) else {}
        return data | {"text/plain": line(self._job)}

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.bundle(), {}

    def follow(self, job: Job) -> None:
        """Show ``job`` from now on."""
        self._job = job
        job.add_listener(self._refresh)
        self._refresh(job)


def _clicked(card: Card, message: Any, _buffers: Any) -> None:
    # Any page script could send a message, so only what the buttons send is understood.
    action = message.get("action") if isinstance(message, dict) else None
    if action == "cancel-earlier" and card._earlier is not None:
        card._earlier.cancel()
    elif action == "cancel":
        card._job.cancel()
    elif action == "resend" and card._job.status == Status.UNKNOWN:
        card.follow(card._job.resend())


def snapshot(job: Job) -> dict[str, Any]:
    """What a card shows of a job, as JSON.

    Times are seconds since the epoch; ``clock`` is the kernel's time as the snapshot was taken, so
    that a browser whose clock differs still counts right.
    """
    record = job.record
    error = job.error
    return {
        "name": record.name or "",
        "status": readable(job.status, 40),
        "done": job.done(),
        "model": _model(job),
        "effort": record.request.effort or "",
        "response_id": record.response_id or "",
        "cancelling": record.cancelling and not job.done(),
        "message": str(error) if error else record.trouble or "",
        "submitted_at": record.submitted_at,
        "ended_at": record.ended_at,
        "clock": time.time(),
    }


def _model(job: Job) -> str:
    """The model that answers, once the server has named it, else the one that was asked."""
    named = (job.response or {}).get("model")
    return readable(named, 80) if isinstance(named, str) and named else job.request.model


def line(job: Job) -> str:
    """The same in one line of text."""
    record = job.record
    effort = f", effort {record.request.effort}" if record.request.effort else ""
    asked = f"{_model(job)}{effort}"
    words = f"{record.name or 'job'}: {readable(job.status, 40)} ({asked}), {job.elapsed:.0f} s"
    message = job.error or record.trouble
    return f"{words}: {message}" if message else words
