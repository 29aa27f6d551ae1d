"""The README against the code: every option and magic is there, and nothing else is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from bgmagic.line_magics import BgLineMagics
from bgmagic.magics import BgMagics
from bgmagic.options import (
    AttachSettings,
    CancelSettings,
    ListSettings,
    LocalSettings,
    Settings,
    WaitSettings,
    options,
)

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TABLE = README.partition("## Options of")[2].partition("## When")[0]


def test_every_option_is_in_the_table() -> None:
    """Each option has its row, with its flags, what it takes and its choices; no row is made up."""
    rows = dict(re.findall(r"^\| (`-.*?) \| (.*) \|$", TABLE, re.MULTILINE))
    for option in options(Settings):
        takes = f"{option.flags[-1]} {option.metavar}" if not option.choices else option.flags[-1]
        head = ", ".join(f"`{flag}`" for flag in [*option.flags[:-1], takes.strip()])
        assert head in rows, head
        assert all(f"`{choice}`" in rows[head] for choice in option.choices)
    assert len(rows) == len(options(Settings))


def test_every_magic_is_in_the_readme() -> None:
    """Each magic is documented, and every magic in the README exists."""
    magics = {f"%{name}" for name in BgLineMagics.magics["line"]}
    magics |= {f"%%{name}" for name in BgMagics.magics["cell"]}
    assert set(re.findall(r"%%?bg\w+", README)) == magics
    for settings in (WaitSettings, CancelSettings, ListSettings, AttachSettings, LocalSettings):
        for option in options(settings):
            assert all(flag in TABLE for flag in option.flags)
            assert option.flags or option.metavar.split("|")[-1] in TABLE


def test_every_flag_in_the_readme_exists() -> None:
    """No example uses a flag that there is not."""
    known = {flag for option in options(Settings) for flag in option.flags}
    used = set(
        re.findall(
            r"(?<=\s)--?[a-z][a-z-]*(?=\s)", "\n".join(re.findall(r"^%%bg.*\n", README, re.M))
        )
    )
    assert used
    assert used <= known


def test_configurable_options_are_as_told() -> None:
    """All options but these have a default in %config and the environment, as the README says."""
    fixed = {option.name for option in options(Settings) if not option.configurable}
    assert fixed == {
        "out",
        "messages",
        "each",
        "n",
        "sweep",
        "yes",
        "continue_",
        "file",
        "tool",
        "schema",
        "param",
        "again",
        "raw",
        "dry_run",
    }
    configurable = {option.name for option in options(Settings) if option.configurable}
    assert set(BgMagics.class_own_traits(config=True)) == configurable | {
        "base_url",
        "confirm_above",
        "journal",
    }


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


def test_pictures_and_links_exist() -> None:
    """Every file that the README links to is there."""
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
