"""The programs, and in which versions they are tried."""

from __future__ import annotations

from tests.frontends import consoles, kernels, pages
from tests.frontends.trial import Program

LAB = ("jupyterlab==4.6.*", "ipykernel")

PROGRAMS: dict[str, Program] = {
    "collaboration": Program(
        "jupyter-collaboration", ("jupyter-collaboration==5.0.4", *LAB), pages.collaboration
    ),
    "server-documents": Program(
        "jupyter-server-documents", ("jupyter-server-documents==0.3.3", *LAB), pages.by_the_server
    ),
    "nbmodel": Program(
        "jupyter-server-nbmodel", ("jupyter-server-nbmodel==0.2.9", *LAB), pages.by_the_server
    ),
    "jupyverse": Program(
        "jupyverse", ("jupyverse[jupyterlab,auth]==0.14.*", "ipykernel"), pages.jupyverse
    ),
    "voila": Program("Voila", ("voila==0.5.13", "ipykernel"), pages.voila),
    "console": Program(
        "jupyter-console", ("jupyter-console==6.6.*", "ipykernel"), consoles.console
    ),
    "qtconsole": Program("qtconsole", ("qtconsole==5.7.*", "PySide6", "ipykernel"), consoles.qt),
    "spyder": Program(
        "Spyder's console", ("spyder-kernels", "qtconsole==5.7.*", "PySide6"), consoles.spyder
    ),
    "euporie": Program("euporie", ("euporie==2.10.4", "ipykernel"), kernels.euporie),
    "xeus-python": Program("xeus-python", ("xeus-python==0.19.0",), kernels.xeus),
    "ploomber": Program("ploomber-engine", ("ploomber-engine", "ipykernel"), kernels.ploomber),
    "marimo": Program("marimo", ("marimo",), pages.marimo),
    "jupytext": Program(
        "jupytext --execute", ("jupytext", "nbconvert", "ipykernel"), kernels.jupytext
    ),
    "nbmake": Program("nbmake", ("nbmake", "pytest", "ipykernel"), kernels.nbmake),
    "nbgrader": Program("nbgrader autograde", ("nbgrader==0.9.*", "ipykernel"), kernels.nbgrader),
    "testbook": Program("testbook", ("testbook", "ipykernel"), kernels.testbook),
    "myst-nb": Program("myst-nb", ("myst-nb", "ipykernel"), kernels.myst),
    "ipyparallel": Program("ipyparallel's engines", ("ipyparallel",), kernels.ipyparallel),
    "ipython": Program(
        "`ipython -c`, `%run`, `IPython.embed()`, `python -m asyncio`",
        ("ipython",),
        kernels.without_a_notebook,
    ),
}
