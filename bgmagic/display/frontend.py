"""The frontend that shows the outputs: which one it is, displaying there, and displaying again.

Imports no widgets, so that the extension can ask after each cell whether anything is to be shown
again.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from IPython import get_ipython
from IPython.display import publish_display_data

Formulas = Literal["mathjax", "mathml"]  # how a page shows formulas in HTML


@dataclass(frozen=True)
class Frontend:
    """What matters here of the program that shows the outputs.

    Attributes:
        name: as people call it.
        is_here: whether the cell that runs now is shown there.
        live: whether somebody can look at a widget there while the kernel runs.
        hears_only_the_running_cell: whether what other threads display may be lost, so that it is
            displayed again after each cell.
        formulas: "mathjax" where the page typesets HTML, else "mathml".
    """

    name: str
    is_here: Callable[[], bool]
    live: bool = True
    hears_only_the_running_cell: bool = False
    formulas: Formulas = "mathjax"


def headless() -> bool:
    """Whether the cell that runs now was sent by a program (nbclient, and with it nbconvert and
    papermill): nobody can type there, and no page has named the cell."""
    kernel = getattr(get_ipython(), "kernel", None)
    parent = kernel.get_parent("shell") if kernel is not None else {}
    return (
        parent.get("content", {}).get("allow_stdin") is False
        and "cellId" not in parent.get("metadata", {})
    )  # fmt: skip


def in_colab() -> bool:
    """Whether this is a kernel of Colab."""
    return "google.colab" in sys.modules


def in_vscode() -> bool:
    """Whether the notebook is open in VS Code, which leaves its path in the namespace."""
    shell = get_ipython()
    return shell is not None and "__vsc_ipynb_file__" in shell.user_ns


# The first that is here counts; all others are as JupyterLab and Notebook are.
FRONTENDS = (
    Frontend("a program", headless, live=False, hears_only_the_running_cell=True),
    Frontend("Colab", in_colab, hears_only_the_running_cell=True),
    Frontend("VS Code", in_vscode, hears_only_the_running_cell=True, formulas="mathml"),
)
JUPYTER = Frontend("Jupyter", lambda: True)


def current() -> Frontend:
    """The frontend of the cell that runs now."""
    return next((found for found in FRONTENDS if found.is_here()), JUPYTER)


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
    if _OUTPUTS and current().hears_only_the_running_cell:
        republish()
