"""The frontend that shows the outputs: which one it is, displaying there, and displaying again.

`FRONTENDS` is the one place where frontends are told apart. Imports no widgets, so that the
extension can ask after each cell whether anything is to be shown again, and so that a page can draw
the first of them before (`EarlyWidget`).
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import importlib.util
import json
import os
import re
import sys
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from IPython import get_ipython
from IPython.display import publish_display_data

from bgmagic.values import dataclass

Formulas = Literal["mathjax", "mathml"]  # how a page shows formulas in HTML

# What a frontend shows of a job: the live card and a line beside it; the card alone; HTML without
# a card; a line of text; a line that the card replaces where the frontend can draw it.
Shows = Literal["card and line", "card", "html", "line", "line or card"]
# Where the end goes: in place of the outputs; there only if a card is known to have been drawn;
# into the card itself.
Replaces = Literal["outputs", "if drawn", "nothing"]
# When a frontend takes what another thread displays: at any time; only while a cell runs, so that
# it is displayed again after each; never, so that the next cell says in a line what has ended.
Hears = Literal["always", "running cell", "next cell"]


@dataclass(frozen=True)
class Frontend:
    """What matters here of the program that shows the outputs.

    Attributes:
        name: as people call it.
        is_here: whether the cell that runs now is shown there, by the message that brought it.
        formulas: "mathjax" where the page typesets HTML, else "mathml".
        shares: whether a document may be open in several pages, of which one runs the cell.
    """

    name: str
    is_here: Callable[[Message], bool]
    shows: Shows
    replaces: Replaces
    hears: Hears
    formulas: Formulas = "mathjax"
    shares: bool = False

    @property
    def live(self) -> bool:
        """Whether somebody can look at a widget there while the kernel runs."""
        return self.shows in ("card", "card and line")

    @property
    def is_program(self) -> bool:
        """Whether a program sends the cells. Of an error it reports the output of kind error alone:
        papermill's message would else be empty."""
        return self.shows == "html"


Message = Mapping[str, Any]


def _message() -> Message:
    """The message that the kernel works on, or {} where it tells of none, as in a terminal."""
    # Without an argument: xeus-python's takes none, and ipykernel's means the same by it.
    asked = getattr(getattr(get_ipython(), "kernel", None), "get_parent", dict)
    found: Any = asked()
    return found if isinstance(found, Mapping) else {}


def _in_voila(_: Message) -> bool:
    return os.environ.get("SERVER_SOFTWARE", "").startswith("voila/")


def _in_colab(_: Message) -> bool:
    return "google.colab" in sys.modules


def _in_vscode(_: Message) -> bool:
    """VS Code leaves the notebook's path in the namespace."""
    shell = get_ipython()
    return shell is not None and "__vsc_ipynb_file__" in shell.user_ns


def _in_marimo(_: Message) -> bool:
    """It has no IPython, and draws widgets all the same."""
    marimo = sys.modules.get("marimo")
    return marimo is not None and bool(marimo.running_in_notebook())


def _in_terminal(_: Message) -> bool:
    return not hasattr(get_ipython(), "kernel")


def _from_widget(message: Message) -> bool:
    """A widget's message runs it, as a click: what is displayed goes into an output of a widget."""
    return str(message.get("header", {}).get("msg_type", "")).startswith("comm_")


def _from_program(message: Message) -> bool:
    """Nobody can type there, no page has named the cell, and no server's session is behind it."""
    nobody = message.get("content", {}).get("allow_stdin") is False
    return nobody and _nameless(message) and not (session_path() and not _inherited_session())


def _from_euporie(message: Message) -> bool:
    """It says so; a run of its preview is else like that of a program, which takes updates."""
    return str(message.get("header", {}).get("username", "")).startswith("euporie-")


def _nameless(message: Message) -> bool:
    """Whether it brought a cell, and does not say which: JupyterLab and Notebook do."""
    return "code" in message.get("content", {}) and "cellId" not in message.get("metadata", {})


# The first that is here counts.
FRONTENDS = (
    Frontend("marimo", _in_marimo, "card", "nothing", "always", "mathml"),
    Frontend("IPython in a terminal", _in_terminal, "line", "nothing", "next cell"),
    Frontend("Voila", _in_voila, "card", "nothing", "always"),
    Frontend("Colab", _in_colab, "card and line", "outputs", "running cell"),
    Frontend("VS Code", _in_vscode, "card and line", "outputs", "running cell", "mathml"),
    Frontend("a widget's output", _from_widget, "card", "nothing", "always"),
    Frontend("euporie", _from_euporie, "line", "nothing", "next cell"),
    # nbclient, and with it nbconvert and papermill.
    Frontend("a program", _from_program, "html", "outputs", "running cell"),
    # And servers that run the cells (jupyter-server-documents, -nbmodel), and pages of which
    # nothing is known.
    Frontend("a console", _nameless, "line or card", "if drawn", "next cell"),
    Frontend(
        "JupyterLab or Notebook", lambda _: True, "card and line", "outputs", "always", shares=True
    ),
)


def current() -> Frontend:
    """The frontend of the cell that runs now."""
    message = _message()
    return next(found for found in FRONTENDS if found.is_here(message))


def colab_manager() -> str | None:
    """The address of Colab's manager for widgets that are not its own, which is switched on once;
    None elsewhere."""
    output: Any = sys.modules.get("google.colab.output")
    if output is None:
        return None
    _enable_manager(output)
    url: str | None = output._widgets._installed_url
    return url


@functools.cache
def _enable_manager(output: Any) -> None:
    output.enable_custom_widget_manager()


def takes_input() -> bool:
    """Whether the cell that runs now can ask for a line of text, which somebody types."""
    return _message().get("content", {}).get("allow_stdin") is True


def session_path() -> str:
    """The path that a Jupyter server gives the kernels of a notebook, or ""."""
    return os.environ.get("JPY_SESSION_NAME", "")


def notebook_path(namespace: Mapping[str, Any]) -> str:
    """The notebook's path where Jupyter servers and VS Code set it, or ""."""
    return session_path() or str(namespace.get("__vsc_ipynb_file__") or "")


def _inherited_session() -> bool:
    """Whether the session is that of the notebook whose kernel started this one, as papermill in a
    cell does; False if that can't be found out."""
    try:
        import psutil  # ipykernel has it
    except ImportError:
        return False
    try:
        theirs = psutil.Process(os.getppid()).environ()
    except (OSError, psutil.Error):
        return False
    return bool(theirs.get("JPY_SESSION_NAME") == session_path())


def publish(
    data: Mapping[str, Any],
    display_id: str | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
    update: bool = False,
) -> None:
    """Display ``data`` in the cell that runs now, or in place of what has this display id."""
    publish_display_data(  # type: ignore[no-untyped-call]  # IPython's
        dict(data),
        metadata=dict(metadata or {}),
        transient={} if display_id is None else {"display_id": display_id},
        update=update,
    )


class Republished(Protocol):
    """An output that can be displayed again."""

    def republish(self) -> bool:
        """Display it as it is now, the end once; False as long as it will change."""


# Alive as long as what they show has them as its listeners.
_OUTPUTS: weakref.WeakSet[Republished] = weakref.WeakSet()
# Those that are kept until their end was displayed again: else nobody would hear of it.
_UNHEARD: set[Republished] = set()


def remember(output: Republished, *, keep: bool) -> None:
    """Have `republish` display ``output`` again.

    Args:
        keep: until its end was displayed again; else only as long as someone else has it.
    """
    _OUTPUTS.add(output)
    if keep:
        _UNHEARD.add(output)


def republish() -> None:
    """Display each output once more, as it is now, from the cell that runs now."""
    for output in list(_OUTPUTS):
        if output.republish():
            _UNHEARD.discard(output)


def after_cell() -> None:
    """Display again what a frontend that hears only the running cell has missed so far."""
    if _OUTPUTS and current().hears == "running cell":
        republish()


# Widgets, as pages draw them.

# What bgmagic's extension draws where a page trusts no output of a cell that another page has run.
UNTRUSTED = "application/vnd.bgmagic.live+json"

WIDGET = "application/vnd.jupyter.widget-view+json"

_HERE = Path(__file__).parent

CARD_SCRIPTS, CARD_STYLE = ("page.js", "card.js"), "card.css"


def script_text(*names: str) -> str:
    """What all displays share and the files of these names, as one ES module; the last exports."""
    return _joined("elements.js", *names)


def style_text(name: str) -> str:
    """The style sheet of that name, with what all displays share before it."""
    return _joined("theme.css", name)


def _joined(*names: str) -> str:
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in names)


@functools.cache
def anywidget_version() -> str:
    """The versions of anywidget's frontend that can draw a widget, as its own widgets ask for."""
    # It comes with its version; `importlib.metadata` lists all that is installed first, in 2 ms.
    version = ""
    with contextlib.suppress(ValueError, AttributeError):
        version = str(json.loads(_file_of("anywidget", "labextension/package.json")).get("version"))
    released = re.fullmatch(r"(\d+\.\d+)\.\d+", version)
    if released:
        return f"~{released[1]}.*"
    from importlib import metadata

    return metadata.version("anywidget")


def _file_of(package: str, name: str) -> str:
    """The text of a file of a package, which is not imported; "" where it can't be read."""
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        with contextlib.suppress(OSError, ValueError):
            return Path(folder, name).read_text(encoding="utf-8")
    return ""


def allow_subshell_messages(comm: Any) -> None:
    """Have the kernel take the clicks that come by ``comm`` where the page sends them.

    JupyterLab sends them beside the cells, to a subshell of the kernel. ipykernel 7.4 would hand
    them back to the shell that last spoke through the comm, which is the one that runs the
    cells, and the click would wait for the cell that computes. Older kernels don't, and frontends
    without subshells choose none: there the click waits.
    """
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda _data, chosen: chosen


PROTOCOL, MODELS = "2.1.0", "2.0.0"  # of ipywidgets 8.1: of messages, and of the models of a layout

_TARGET = "jupyter.widget"  # of the comms of widgets
_CONTROL = "jupyter.widget.control"  # of that by which a page that opens asks for all of them


def draws_early() -> bool:
    """Whether a widget that is shown now is to be an `EarlyWidget`."""
    if "ipywidgets" in sys.modules or not current().shares or _targets() is None:
        return False
    told = _file_of("ipywidgets", f"_version{importlib.machinery.SOURCE_SUFFIXES[0]}")
    said = dict(re.findall(r"^__(\w+)__ = '([^']*)'", told, re.MULTILINE))
    speaks = said.get("protocol_version"), said.get("jupyter_widgets_base_version")
    return speaks == (PROTOCOL, MODELS)


def _targets() -> dict[str, Any] | None:
    """Whom the kernel calls for the comms that a page opens; None where it does not say."""
    from comm import get_comm_manager  # every kernel's, and what ipywidgets itself uses

    targets = getattr(get_comm_manager(), "targets", None)  # xeus-python keeps them elsewhere
    return targets if isinstance(targets, dict) else None


class EarlyWidget:
    """A widget that pages draw before its Python is there: importing ipywidgets takes 33 ms, as
    long as all else that a first cell does.

    Its comms are opened as the widget would have opened them. With a page's first message, with the
    first news, or when somebody looks at it, the widget is made, and has them from then on.

    Attributes:
        comm: the widget's.
        layout: the comm of its layout.
        live_id: the widget's.
        look: gives the widget, made if it is not there yet.
    """

    def __init__(
        self,
        of: object,
        state: Mapping[str, Any],
        look: Callable[[], Any],
        on_made: Callable[[], object],
    ) -> None:
        """Open the comms: pages draw the widget from now on.

        Args:
            of: what it shows, by which `EARLY` has it.
            state: what the widget's own class adds to the state of a `LiveWidget`.
            look: gives the widget; the first time it makes it, by `widget`.
            on_made: told once it is made.
        """
        from comm import create_comm

        self.live_id = uuid.uuid4().hex
        self.look, self._on_made = look, on_made
        self._widget: Any = None
        self._making = threading.RLock()
        targets = _targets()
        if targets is not None:
            targets.setdefault(_CONTROL, _asked_for_all)
        version = {"version": PROTOCOL}
        named = _named("@jupyter-widgets/base", MODELS, "Layout")
        self.layout: Any = create_comm(
            target_name=_TARGET, data={"state": named, "buffer_paths": []}, metadata=version
        )
        whole = {
            **_named("anywidget", anywidget_version(), "Any"),
            "_dom_classes": (),
            "tabbable": None,
            "tooltip": None,
            "layout": f"IPY_MODEL_{self.layout.comm_id}",
            "live_id": self.live_id,
            **state,
        }
        self.comm: Any = create_comm(
            target_name=_TARGET, data={"state": whole, "buffer_paths": []}, metadata=version
        )
        allow_subshell_messages(self.comm)
        self.comm.on_msg(self._heard)
        EARLY[of] = self

    @property
    def made(self) -> bool:
        """Whether the widget is there."""
        return self._widget is not None

    def widget(self, make: Callable[[], Any]) -> Any:
        """The widget; of all threads that ask, ``make`` is called by the first."""
        with self._making:
            if self._widget is None:
                self._widget = make()
                self._on_made()
            return self._widget

    def bundle(self) -> dict[str, Any]:
        """The MIME bundle of displaying it, without its text."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.comm.comm_id}
        return {WIDGET: view, UNTRUSTED: {"live_id": self.live_id}}

    def metadata(self) -> dict[str, Any]:
        """The metadata of that bundle: none."""
        return {}

    def _heard(self, message: Any) -> None:
        self.look()._handle_msg(message)  # where the comm brings them from now on


# Those of this kernel, by what they are of; ipywidgets keeps widgets as long.
EARLY: dict[object, EarlyWidget] = {}


def _named(module: str, version: str, name: str) -> dict[str, Any]:
    """Who draws a widget: its model and its view."""
    named: dict[str, Any] = {"_view_count": None}
    for part in ("model", "view"):
        named |= {f"_{part}_module": module, f"_{part}_module_version": version}
        named[f"_{part}_name"] = f"{name}{part.capitalize()}"
    return named


def make_early_widgets() -> None:
    """Make those that were drawn early."""
    for early in list(EARLY.values()):
        early.look()


def _asked_for_all(comm: Any, message: Any) -> None:
    """Have ipywidgets, which is not imported yet, answer a page that opens."""
    importlib.import_module("bgmagic.display.card")
    make_early_widgets()
    # Its import has put its own function there.
    if targets := _targets():
        targets[_CONTROL](comm, message)
