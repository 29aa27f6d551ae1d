"""The live widgets' base class, and the card: the live status display of one job.

The card watches its job and sends the browser one small message for each change; the seconds tick
there. card.js draws it, from text only. Where no widget can be shown, `describe_live` is the text.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import ipywidgets
import traitlets

from bgmagic.display import frontend
from bgmagic.display.frontend import UNTRUSTED, WIDGET, EarlyWidget, Formulas
from bgmagic.display.listing import describe_live, previewed, sentence, snapshot, step_key
from bgmagic.display.static_html import FinalBundles
from bgmagic.errors import BgmagicError
from bgmagic.jobs.job import Job
from bgmagic.jobs.record import Status
from bgmagic.jobs.steps import OPEN_QUESTIONS
from bgmagic.text import one_line


def script(*names: str) -> traitlets.Unicode[Any, Any]:
    """`frontend.script_text` of these names in a trait."""
    return _sent(frontend.script_text(*names))


def style(name: str) -> traitlets.Unicode[Any, Any]:
    """`frontend.style_text` of that name in a trait."""
    return _sent(frontend.style_text(name))


def _sent(value: str) -> traitlets.Unicode[Any, Any]:
    return traitlets.Unicode(value).tag(sync=True)


_VERSION = frontend.anywidget_version()

REPLACING = 10.0  # seconds that a page has for replacing outputs before another one may


class LiveWidget(ipywidgets.DOMWidget):  # type: ignore[misc]  # ipywidgets has no types
    """A widget that has a line of text for places without widgets, and takes clicks as messages.

    Pages draw it by anywidget's frontend. anywidget's own class would add only the traits below,
    and its import, with psygnal's, takes 10 ms of a first cell.
    A subclass sets ``_esm`` and ``_css`` with `script` and `style`.

    Attributes:
        shown: the names of the traits that the browser draws.
        live_id: names the widget for a page that has its script but not its view, see `UNTRUSTED`.
    """

    _model_name, _view_name = _sent("AnyModel"), _sent("AnyView")
    _model_module, _view_module = _sent("anywidget"), _sent("anywidget")
    _model_module_version, _view_module_version = _sent(_VERSION), _sent(_VERSION)
    _anywidget_id = traitlets.Unicode(read_only=True).tag(sync=True)

    shown: ClassVar[Sequence[str]] = ("view",)
    live_id = traitlets.Unicode().tag(sync=True)
    # Of the whole kernel: a page may say so too late for the card that it has drawn.
    _shared: ClassVar[bool] = False

    def __init__(self, early: EarlyWidget | None = None, **traits: Any) -> None:
        """Make the widget, and have it take clicks; ``early`` is what pages draw already."""
        # Gives what replaces the widget, with formulas as asked for; None is "not yet", or never.
        self.on_finish: Callable[[Formulas], FinalBundles | None] = lambda _: None
        # Called when a page has drawn the widget.
        self.on_drawn: list[Callable[[], None]] = []
        self.drawn = False
        self._replacing = "", -math.inf  # the page that replaces the outputs, and since when
        frontend.colab_manager()
        self._early = early
        if early is not None:
            traits["layout"] = ipywidgets.Layout(comm=early.layout)
        super().__init__(live_id=early.live_id if early else uuid.uuid4().hex, **traits)
        if early is not None:
            self.resend()  # what has happened since

    def open(self) -> None:
        """Open the comm, or take over the one that pages have."""
        # First: from then on messages may come, on other threads.
        self.on_msg(_heard)
        early, self._early = self._early, None  # once: who closes it can open another comm
        if early is None:
            super().open()
            frontend.allow_subshell_messages(getattr(self, "comm", None))
        else:
            self.comm: Any = early.comm

    def plain_text(self) -> str:
        """What stands where no widget can be shown."""
        raise NotImplementedError

    def click(self, action: str, key: str) -> None:
        """Do what a click asks for; ``key`` is the row's, or "" where there are no rows."""
        raise NotImplementedError

    @property
    def shared(self) -> bool:
        """Whether the notebook may be open in several pages at once that change it together."""
        return LiveWidget._shared

    def finish(self, page: str) -> None:
        """Have ``page`` put plain HTML in the widget's place, if it is time for that.

        Of several pages of one document only one may do so.
        """
        content, now = self.on_finish("mathjax"), time.monotonic()
        other, since = self._replacing
        if content is not None and (page == other or now - since > REPLACING):
            self._replacing = page, now
            self.send({"finished": content, "page": page})

    def fill_in(self, page: str) -> None:
        """Have ``page``, where nothing can be replaced, show the end within the widget."""
        content = self.on_finish("mathml")  # nobody typesets what stands in a widget
        if content is not None:
            self.send({"filled": content, "page": page})

    def note_drawn(self, where: str) -> None:
        """Take in that a page has drawn the widget; ``where`` is "shared" for a shared document."""
        if where == "shared":
            LiveWidget._shared = True
        if not self.drawn:
            self.drawn = True
            for tell in self.on_drawn:
                tell()

    def resend(self) -> None:
        """Send what is shown once more, from the thread that calls this."""
        self.send_state(list(self.shown))

    def bundle(self) -> dict[str, Any]:
        """The MIME bundle of displaying it: the widget and its plain text."""
        data: dict[str, Any] = super()._repr_mimebundle_() or {}
        if frontend.current().shares:
            data |= {UNTRUSTED: {"live_id": self.live_id}}
        return data | {"text/plain": self.plain_text()}

    def metadata(self) -> dict[str, Any]:
        """The metadata of its MIME bundle: Colab is told there who draws such widgets."""
        url = frontend.colab_manager()
        return {WIDGET: {"colab": {"custom_widget_manager": {"url": url}}}} if url else {}

    def __repr__(self) -> str:
        return object.__repr__(self)  # without the texts of all traits

    @traitlets.default("_anywidget_id")
    def _id_of_class(self) -> str:
        return f"{type(self).__module__}.{type(self).__qualname__}"

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.bundle(), self.metadata()


def _heard(widget: LiveWidget, message: Any, _buffers: Any) -> None:
    # Any page script could send a message, so only what our scripts send is understood.
    if isinstance(message, dict) and isinstance(message.get("action"), str):
        key = message.get("key", "")
        act = {"finish": widget.finish, "fill": widget.fill_in, "drawn": widget.note_drawn}
        if isinstance(key, str):
            act.get(message["action"], functools.partial(widget.click, message["action"]))(key)


History = Callable[[Job], Mapping[str, Any]]


class Card(LiveWidget):
    """A live display of ``job``.

    Attributes:
        view: what the browser draws, see `snapshot`.
        preview: the end of what a streamed response says so far, and of its reasoning.
    """

    _esm = script(*frontend.CARD_SCRIPTS)
    _css = style(frontend.CARD_STYLE)
    shown = ("view", "preview")
    view = traitlets.Dict().tag(sync=True)
    preview = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        job: Job,
        history: History | None = None,
        pick_up: Callable[[Job], Job] | None = None,
        **traits: Any,
    ) -> None:
        """Make the card; it follows the job from now on.

        Args:
            history: tells how long earlier jobs like this one took: ``count``, and ``median``,
                ``low`` and ``high`` in seconds. May read a file: called off the loop thread.
            pick_up: follows a detached job again, by the handle that it gives back.
        """
        self._earlier: Job | None = None
        self._history: Mapping[str, Any] = {}
        self._look_back = history
        self._pick_up = pick_up
        self._notify = False
        self._refused = ""  # why a click could do nothing
        # A click may come on another thread than the news of the job.
        self._drawing = threading.RLock()
        # Called when the card goes over to another job.
        self.on_follow: list[Callable[[Job], None]] = []
        self._key = job.record.key
        self._job = job
        known = job.record
        super().__init__(view=snapshot(job), **traits)
        job.add_listener(self._refresh)
        if job.record is not known:
            self._refresh(job)  # what happened before the listener was there

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """What a page is given: the newest view, with the time as it is now."""
        state: dict[str, Any] = super().get_state(key, drop_defaults)
        return (
            state | {"view": state["view"] | {"clock": time.time()}} if "view" in state else state
        )

    def _refresh(self, job: Job) -> None:
        with self._drawing:
            if job is self._job:
                self._draw(job)

    def _draw(self, job: Job) -> None:
        shown = previewed(job.record)
        if shown != self.preview:
            self.preview = shown
        now = snapshot(job) | {
            "key": self._key,  # what the outputs of the cell are known by, whoever took over
            "model_id": self.model_id,
            "earlier": self._about_earlier(),
            "history": self._history,
            "notify": self._notify,
            "refused": self._refused,
        }
        # The clock alone is no news.
        if now != self.view | {"clock": now["clock"]}:
            self.view = now
        if self._look_back is not None and job.record.accepted_at is not None and not job.done():
            self._start_looking_back(job, self._look_back)

    def _start_looking_back(self, job: Job, history: History) -> None:
        with contextlib.suppress(RuntimeError):  # not on the loop thread: with the next change
            loop = asyncio.get_running_loop()
            self._look_back = None

            def take(found: asyncio.Future[Mapping[str, Any]]) -> None:
                if not found.cancelled() and found.exception() is None:
                    self._history = found.result()
                    self._refresh(job)

            loop.run_in_executor(None, history, job).add_done_callback(take)

    def _about_earlier(self) -> str:
        earlier = self._earlier
        if earlier is None or earlier.done():
            return ""
        which = earlier.response_id or "not accepted yet"
        return f"An earlier job for this name goes on ({one_line(which, 80)})"

    def mention(self, earlier: Job) -> None:
        """Say that ``earlier``, another job for the same variable, still runs; offer to cancel."""
        self._earlier = earlier
        earlier.add_listener(lambda _: self._refresh(self._job))
        self._refresh(self._job)

    def notify(self) -> None:
        """Have the browser show a desktop notification at the end, if its tab is hidden then."""
        self._notify = True
        self._refresh(self._job)

    def plain_text(self) -> str:
        """The job in a line."""
        return describe_live(self._job)

    def follow(self, job: Job) -> None:
        """Show ``job`` from now on."""
        with self._drawing:
            self._job, self._refused = job, ""
        job.add_listener(self._refresh)
        self._refresh(job)
        for tell in self.on_follow:
            tell(job)

    def click(self, action: str, key: str = "") -> None:
        """Do what a button asks for; what can't be done is said on the card."""
        try:
            self._do(action, key)
        except BgmagicError as error:
            self._refused = sentence(str(error))
            self._refresh(self._job)
        self.send({"heard": action})

    def _do(self, action: str, key: str) -> None:
        job = self._job
        if action in ("allow", "deny"):
            # A late click means nothing for a call of the next round, which may have the same id.
            for step in job.steps:
                if step_key(step) == key and step.status in OPEN_QUESTIONS:
                    (job.allow if action == "allow" else job.deny)(step.call_id)
            return
        if action == "cancel":
            job.cancel()
        elif action == "cancel-earlier" and self._earlier is not None:
            self._earlier.cancel()
        elif action == "resend" and job.status == Status.UNKNOWN:
            self.follow(job.resend())
        elif action == "check" and job.status == Status.DETACHED and self._pick_up is not None:
            self.follow(self._pick_up(job))
