"""The public names, and what importing them costs."""

from __future__ import annotations

import importlib.resources
import inspect
import subprocess
import sys

import bgmagic
from bgmagic.submission.options import SubmitSettings, names


def test_public_names_exist_and_are_complete() -> None:
    """Everything public in the package is in __all__, sorted, and nothing else."""
    public = {
        name
        for name, value in vars(bgmagic).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", "").startswith("bgmagic.")
    }
    assert public == set(bgmagic.__all__)
    assert sorted(bgmagic.__all__) == bgmagic.__all__


def test_every_public_thing_is_documented() -> None:
    """Each public name has a docstring that is its own."""
    for name in bgmagic.__all__:
        assert inspect.getdoc(getattr(bgmagic, name)), name


def test_submit_takes_the_options_names() -> None:
    """submit() takes the options of the magic, but those that only a notebook has."""
    taken = list(inspect.signature(bgmagic.submit).parameters)
    shown = ("wait", "notify", "quiet", "raw", "dry_run")
    group = ("each", "n", "sweep", "max_in_flight", "yes")
    expected = [name for name in names(SubmitSettings) if name not in shown]
    assert taken == ["prompt", *(name for name in expected if name not in group), "fill"]
    mapped = set(inspect.signature(bgmagic.map).parameters)
    assert mapped == {"template", "items", "fill", *expected} - {"each"}


def test_plain_python_needs_no_ipython() -> None:
    """Importing bgmagic imports neither IPython nor widgets nor openai, nor what connections, schemas and files need."""
    code = (
        "import sys, bgmagic; "
        "print([m for m in ('IPython', 'ipywidgets', 'anywidget', 'openai', 'tornado', 'pydantic', 'fastjsonschema', 'PIL', 'aiohttp', 'httptools', 'httpx2') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_what_is_no_code_is_installed_too() -> None:
    """The displays' JavaScript and styles and the mark of a typed package lie where the code does."""
    here = importlib.resources.files("bgmagic")
    for name in ("py.typed", "display/card.js", "display/card.css", "display/theme.css"):
        assert here.joinpath(name).is_file(), name
