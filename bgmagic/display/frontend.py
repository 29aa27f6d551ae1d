"""Who listens to this kernel: a page that shows widgets, a program, or something between.

What is shown in which case is shown.py's business, and when it is shown again magics.py's.
"""

from __future__ import annotations

import sys

from IPython import get_ipython


def headless() -> bool:
    """Whether the cell that runs now was sent by a program (nbclient, and with it nbconvert and
    papermill): nobody can type there, and no page has named the cell."""
    kernel = getattr(get_ipython(), "kernel", None)
    parent = kernel.get_parent("shell") if kernel is not None else {}
    return (
        parent.get("content", {}).get("allow_stdin") is False
        and "cellId" not in parent.get("metadata", {})
    )  # fmt: skip


def hears_only_the_running_cell() -> bool:
    """Whether what other threads display may be lost, so that it is shown again after each cell."""
    return headless() or in_colab() or in_vscode()


def in_colab() -> bool:
    """Whether this is a kernel of Colab."""
    return "google.colab" in sys.modules


def in_vscode() -> bool:
    """Whether the notebook is open in VS Code, which leaves its path in the namespace."""
    shell = get_ipython()
    return shell is not None and "__vsc_ipynb_file__" in shell.user_ns
