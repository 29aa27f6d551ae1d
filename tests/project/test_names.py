"""The public names, and what importing them costs."""

from __future__ import annotations

import ast
import importlib.resources
import inspect
import io
import pickle
import pickletools
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import bgmagic
from bgmagic.submission.options import names
from bgmagic.submission.settings import SubmitSettings

PACKAGE = Path(bgmagic.__file__).parent
HOOKS = {"load_ipython_extension", "unload_ipython_extension"}


def test_public_names_exist_and_are_complete() -> None:
    """Everything public in the package is in __all__, sorted, and nothing else."""
    public = {
        name
        for name in dir(bgmagic)
        for value in [getattr(bgmagic, name)]
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", "").split(".")[0] == "bgmagic"
    }
    assert public - HOOKS == set(bgmagic.__all__)
    assert sorted(bgmagic.__all__) == bgmagic.__all__


@pytest.mark.parametrize("name", bgmagic.__all__)
def test_public_names_are_shown_without_their_file(name: str) -> None:
    """Python shows `bgmagic.Job`, and finds it there, wherever the file is that defines it."""
    value = getattr(bgmagic, name)
    assert value.__module__ == "bgmagic"
    assert pickle.loads(pickle.dumps(value)) is value
    if inspect.isclass(value) and name != "Status":  # an enum has a repr of its own
        assert repr(value) == f"<class 'bgmagic.{name}'>"


CITED = {
    "id": "resp_1",
    "output": [{
        "content": [{
            "type": "output_text",
            "text": "Water.",
            "annotations": [{"type": "url_citation", "title": "A", "url": "https://a.org"}],
        }]
    }],
}  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        bgmagic.Answer("Water.", CITED, asked={"input": [], "instructions": "Be brief."}),
        bgmagic.BgmagicError("no"),
        bgmagic.BadInput("no"),
        bgmagic.NotReady("no"),
        bgmagic.Status.QUEUED,
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_name_the_package_alone(value: object, protocol: int) -> None:
    """A pickle of what users keep comes back the same, and names no file that may move."""
    pickled = pickle.dumps(value, protocol)
    back = pickle.loads(pickled)
    assert type(back) is type(value)
    assert str(back) == str(value)
    if isinstance(value, bgmagic.Answer):
        assert back.citations == value.citations != ()
        assert (back.response_id, back.instructions) == ("resp_1", "Be brief.")
    words = [word for _, word, _ in pickletools.genops(pickled) if isinstance(word, str)]
    named = {word.split()[0] for word in words if word.startswith("bgmagic")}
    assert named == {"bgmagic"}


def _public_definitions() -> list[tuple[str, str]]:
    """Each public class and function at the top of a file, with that file."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        for node in ast.parse(path.read_text()).body:
            # Functions of local/ are left out: that package imports nothing of the others and runs
            # in a process of its own, so nobody can jump from one to the other.
            kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            ours = ast.ClassDef if file.startswith("local/") else kinds
            # What only tells a type checker of the function below it is no other function.
            marks = [ast.unparse(mark) for mark in getattr(node, "decorator_list", [])]
            if isinstance(node, ours) and not node.name.startswith("_") and "overload" not in marks:
                found.append((node.name, file))
    return found


def test_no_two_things_share_a_name() -> None:
    """A class or public function is the only one of its name in the package."""
    files: dict[str, list[str]] = {}
    for name, file in _public_definitions():
        files.setdefault(name, []).append(file)
    assert len(files) > 300
    assert {name: found for name, found in files.items() if len(found) > 1} == {}


def test_every_public_thing_is_documented() -> None:
    """Each public name has a docstring that is its own."""
    for name in bgmagic.__all__:
        assert inspect.getdoc(getattr(bgmagic, name)), name


def test_submit_takes_the_options_names() -> None:
    """submit() takes the options of the magic, but those that only a notebook has."""
    taken = list(inspect.signature(bgmagic.submit).parameters)
    shown = ("wait", "quiet", "raw", "dry_run")
    group = ("each", "n", "sweep", "batch", "max_in_flight", "yes")
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


def test_words_name_files_that_exist() -> None:
    """No comment or docstring sends its reader to a file that is not there, or has moved."""
    # rendering/ and local/ are not read: their files are about to be replaced.
    read = [
        path for path in PACKAGE.rglob("*.py") if path.parent.name not in ("rendering", "local")
    ]
    there = {path.name for path in PACKAGE.rglob("*.*")}
    for path in read:
        tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
        for token in tokens:
            if token.type in (tokenize.COMMENT, tokenize.STRING):
                named = set(re.findall(r"\b[a-z_]+\.(?:py|js|css)\b", token.string))
                assert named <= there, f"{path.name}, line {token.start[0]}: {named - there}"


def test_styles_of_the_panel_and_of_the_displays_are_apart() -> None:
    """JupyterLab's page has the panel's style and the displays': no class is in both."""

    def classes(folder: str) -> set[str]:
        texts = (path.read_text() for path in sorted((PACKAGE / folder).rglob("*.css")))
        return {name for text in texts for name in re.findall(r"\.(bg[\w-]+)", text)}

    panel, displays = classes("labextension"), classes("display")
    assert panel
    assert displays
    assert panel & displays == set()
