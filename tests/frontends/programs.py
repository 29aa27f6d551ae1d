"""The programs, and in which versions they are tried."""

from __future__ import annotations

from tests.frontends import pages
from tests.frontends.trial import Program

PROGRAMS: dict[str, Program] = {
    "collaboration": Program(
        "jupyter-collaboration, three pages of one document",
        ("jupyter-collaboration==5.0.4", "jupyterlab==4.6.*", "ipykernel"),
        pages.collaboration,
    ),
}
