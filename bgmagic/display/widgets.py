"""What the card and the board have in common: how their scripts are put together, and their clicks.

A widget's script reaches the page as one text, without files beside it. What a click means is the
widget's business; its handlers may run on any thread.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def joined(*names: str) -> str:
    """The files of these names as one style sheet, or one ES module whose last has the exports."""
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in names)


def hear_beside_cells(widget: Any) -> None:
    """Have the kernel take the clicks on ``widget`` where the page sends them.

    JupyterLab sends them beside the cells, to a subshell of the kernel. ipykernel 7.4 would hand
    them back to the shell that last spoke through the widget's comm, which is the one that runs the
    cells, and the click would wait for the cell that computes. Older kernels don't, and frontends
    without subshells choose none: there the click waits.
    """
    comm: Any = getattr(widget, "comm", None)
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda _data, chosen: chosen
