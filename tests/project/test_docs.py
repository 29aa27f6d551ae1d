"""The README against the code: every option and magic is there, and nothing else is."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import operator
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import bgmagic
from bgmagic.jobs.group import JobGroup
from bgmagic.jobs.job import Answer, Job
from bgmagic.notebook.cell_magic import BgCellMagics
from bgmagic.notebook.completion import MAGICS
from bgmagic.notebook.line_magics import BgLineMagics
from bgmagic.notebook.magics import BgMagics
from bgmagic.prompts.inputs import MOST
from bgmagic.runtime.pacing import EARLY, INTERVAL
from bgmagic.submission.options import options
from bgmagic.submission.settings import SubmitSettings
from bgmagic.sweeps.plan import CONFIRM_ABOVE

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "tests/README.md",
    "tests/benchmarks/README.md",
    "notebooks/jupyterlab.md",
    "notebooks/servers.md",
    "notebooks/troubles.md",
    "notebooks/values.md",
)
TABLE = README.partition("## Options of")[2].partition("## When")[0]
TEXTS = {
    path.name: "\n\n".join(
        "".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]
    )
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
} | {"README.md": README}
SWEEPS = {"each", "n", "sweep", "batch", "max_in_flight", "yes"}


def flags(settings: type[Any]) -> set[str]:
    return {flag for option in options(settings) for flag in option.flags}


def test_every_option_is_in_the_table() -> None:
    """Each option has its row, with its flags, what it takes and its choices; no row is made up."""
    rows = dict(re.findall(r"^\| (`-.*?) \| (.*) \|$", TABLE, re.MULTILINE))
    for option in options(SubmitSettings):
        takes = f"{option.flags[-1]} {option.metavar}" if not option.choices else option.flags[-1]
        head = ", ".join(f"`{flag}`" for flag in [*option.flags[:-1], takes.strip()])
        assert head in rows, head
        assert all(f"`{choice}`" in rows[head] for choice in option.choices)
    assert len(rows) == len(options(SubmitSettings))


def test_every_magic_is_in_the_readme() -> None:
    """Each magic is documented, and every magic in the README exists."""
    magics = {f"%{name}" for name in BgLineMagics.magics["line"]}
    magics |= {f"%%{name}" for name in BgCellMagics.magics["cell"]}
    assert set(MAGICS) == magics
    assert set(re.findall(r"%%?bg\w+", README)) == magics


@pytest.mark.parametrize("magic", [magic for magic in MAGICS if magic != "%%bgresponse"])
def test_every_line_magic_has_its_row(magic: str) -> None:
    """The row of a line magic names its options and words, with what they take, and no others."""
    (row,) = re.findall(rf"^\| `({magic} .*?)` \|", TABLE.replace("` or `", " "), re.MULTILINE)
    row = row.replace("\\|", "|").replace("[", " ").replace("]", " ").replace("…", "")
    words = row.split()[1:]
    for option in options(MAGICS[magic]):
        if option.flags:
            words.remove(next(flag for flag in option.flags if flag in words))
        if option.metavar:
            takes = "OTHER" if option.name == "out" else option.metavar
            for word in takes.replace("[", "").replace("]", "").split():
                words.remove(word)
    assert words == []


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_flag_exists(text: str) -> None:
    """No example or sentence uses a flag that its magic does not have, or that none has."""
    every = {flag for settings in MAGICS.values() for flag in flags(settings)}
    of_others = {"-m", "-e", "--execute", "-r"}  # python -m, pip install -e, nbconvert --execute
    of_others |= {"--tensor-parallel-size", "--data-parallel-size"}  # vllm serve
    for line in re.findall(r"^[^\S\n]*%%?bg.*|`[^`\n]+`", text, re.MULTILINE):
        used = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*(?![\w-])", line))
        magic = re.search(r"%%?bg\w+", line)
        known = flags(MAGICS[magic[0]]) if magic else every | of_others
        assert used <= known, line


def test_every_name_in_the_readme_exists() -> None:
    """Variables of the environment, settings of %config, names in Python, files and extras are there."""
    code = "".join(path.read_text() for path in (ROOT / "bgmagic").rglob("*.py"))
    configurable = {
        option.name.upper() for option in options(SubmitSettings) if option.configurable
    }
    for name in re.findall(r"BGMAGIC_(\w+)", README):
        assert name in configurable or f'"BGMAGIC_{name}"' in code, name
    for name in re.findall(r"BgMagics\.(\w+)", README):
        assert name in BgMagics.class_trait_names(config=True), name
    for name in re.findall(r"\bbgmagic\.(\w+)\(", README):
        assert name in bgmagic.__all__, name
    # A variable that holds an answer holds the job before.
    held = {"job": [Job], "critique": [Job], "fit": [Answer, Job], "study": [JobGroup]}
    for variable, name in re.findall(r"`(\w+)\.(\w+)(?:\(.*?\))?`", README):
        for kind in held.get(variable, []):
            if hasattr(kind, name) or name in kind.__annotations__:
                break
        else:
            assert variable not in held, f"{variable}.{name}"
    for name in re.findall(r"python -m ([\w.]+)", README):
        assert importlib.util.find_spec(name), name
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in re.findall(r"`\[(\w+)\]`", README):
        assert name in extras["optional-dependencies"], name


def test_defaults_are_as_told() -> None:
    """The numbers and words in the table are those of the code."""
    default = {option.name: option.default for option in options(SubmitSettings)}
    rows = dict(re.findall(r"^\| `(?=-).*?--([a-z-]+).*?` \| (.*) \|$", TABLE, re.MULTILINE))
    assert f"(`{default['model']}`)" in rows["model"]
    assert f"(`{default['deadline'] / 3600:.0f}h`)" in rows["deadline"]
    assert f"(`{default['create_timeout'] / 60:.0f}m`)" in rows["create-timeout"]
    assert f"({default['max_in_flight']})" in rows["max-in-flight"]
    assert f"({CONFIRM_ABOVE})" in rows["yes"]
    assert f"A sweep of more than {CONFIRM_ABOVE} jobs" in README
    early = " and ".join(", ".join(f"{seconds:g}" for seconds in EARLY).rsplit(", ", 1))
    assert f"({INTERVAL:g}; {early} at first)" in rows["poll"]
    assert f"{MOST >> 20} MB in all" in rows["file"]


def test_the_readme_has_its_order() -> None:
    """What it is, then a picture and the two commands; everything else comes in the order of need."""
    assert re.findall(r"^## (.*)", README, re.MULTILINE) == [
        "Two commands",
        "Five examples",
        "Options of `%%bgresponse`",
        "When things go wrong",
        "Servers",
        "Without a page",
        "Figures",
    ]
    assert len(README.splitlines()) <= 250
    opening = README.partition("## Two")[0].split("\n\n")
    assert opening[0] == "# bgmagic"
    assert len(opening[1].splitlines()) <= 3
    assert opening[2].startswith("![")
    examples = README.partition("## Five")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\*\*", examples, re.MULTILINE)) == 5


def test_configurable_options_are_as_told() -> None:
    """All options but these have a default in %config and the environment, as the README says."""
    fixed = {option.name for option in options(SubmitSettings) if not option.configurable}
    assert fixed == {
        "out",
        "messages",
        "each",
        "n",
        "sweep",
        "batch",
        "yes",
        "continue_",
        "file",
        "tool",
        "schema",
        "param",
        "over_budget",
        "again",
        "raw",
        "dry_run",
    }
    configurable = {option.name for option in options(SubmitSettings) if option.configurable}
    assert set(BgMagics.class_traits(config=True)) == configurable | {
        "base_url",
        "budget",
        "confirm_above",
        "confirm_above_dollars",
        "journal",
        "keep",
        "polls_per_second",
        "prices",
        "tools_on_main_thread",
    }


def test_what_submit_lacks_is_told() -> None:
    """The README names the options that submit() does not take."""
    (told,) = re.findall(r"same names but those of a sweep and (.*?)\n?\(", README, re.DOTALL)
    takes = {*inspect.signature(bgmagic.submit).parameters, *SWEEPS}
    lacks = {option.flags[-1] for option in options(SubmitSettings) if option.name not in takes}
    assert set(re.findall(r"--[a-z-]+", told)) == lacks


def test_the_two_commands_are_there() -> None:
    """The README has the commands that CI runs, and the extras they name exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for command in (
        'pip install -e ".[lab]" && jupyter lab notebooks/01_quickstart.ipynb',
        'pip install -e ".[test]" && pytest',
    ):
        assert f"\n{command}\n" in README
    assert {"lab", "test", "local", "dev"} <= set(project["optional-dependencies"])
    assert (ROOT / "notebooks" / "01_quickstart.ipynb").exists()


def test_every_dependency_has_its_reason() -> None:
    """Each dependency of the core says in a comment why it is there."""
    text = (ROOT / "pyproject.toml").read_text()
    block = text.partition("\ndependencies = [")[2].partition("]")[0]
    lines = [line for line in block.splitlines() if line.strip()]
    assert lines
    assert all("#" in line for line in lines)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_pictures_and_links_exist(document: str) -> None:
    """Every file that a document links to is there, and every file and folder of tests that it names."""
    text, folder = (ROOT / document).read_text(), (ROOT / document).parent
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (folder / target).exists(), target
    for name in re.findall(r"\btests/[\w/.]*\w", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize(
    ("document", "headings"),
    [
        ("tests/README.md", ["What each command does", "Reliability"]),
        ("tests/benchmarks/README.md", ["What people use today"]),
        ("CONTRIBUTING.md", ["How it is built", "Where is …", "Glossary", "To add an option"]),
    ],
)
def test_what_left_the_readme_is_there(document: str, headings: list[str]) -> None:
    """What the README points to has its place, and the README links to that document."""
    found = re.findall(r"^## (.*)", (ROOT / document).read_text(), re.MULTILINE)
    assert set(headings) <= set(found)
    assert f"]({document})" in README


def test_places_in_contributing_exist() -> None:
    """Each `file.py::Name` that CONTRIBUTING gives is a file of the package with that class or function in it."""
    places = re.findall(r"`([\w/]+)\.py::([\w.]+)`", CONTRIBUTING)
    assert len(places) >= 10
    for file, name in places:
        module = importlib.import_module(f"bgmagic.{file.replace('/', '.')}")
        found = operator.attrgetter(name)(module)
        assert getattr(found, "__module__", module.__name__) in (module.__name__, "bgmagic"), name
    for file in re.findall(r"`(\w+/\w+\.py)`", CONTRIBUTING):
        assert (ROOT / "bgmagic" / file).exists(), file


def test_glossary_has_the_words_of_the_code() -> None:
    """The glossary explains the words that the code uses, and each class that it names exists."""
    glossary = CONTRIBUTING.partition("## Glossary")[2].partition("\n## ")[0]
    words = set(re.findall(r"^- \*\*(.*?)\*\*: ", glossary, re.MULTILINE))
    assert words >= {
        "job", "record", "answer", "group", "sweep", "plan", "partial prompt", "fingerprint", "runner",
        "scheduler", "watcher", "limiter", "pacer", "store", "journal", "owner lock", "shell", "card",
        "board", "final HTML",
    }  # fmt: skip
    code = "".join(path.read_text() for path in (ROOT / "bgmagic").rglob("*.py"))
    for name in re.findall(r"`([A-Z]\w+)`", glossary):
        assert re.search(rf"^class {name}\b", code, re.MULTILINE), name
