"""Which package may import which: CONTRIBUTING's table, kept true; no circle of any kind."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "bgmagic"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()

# Each room, a module at the top or a package, and the rooms it may import, from the bottom up.
# Every import counts: those for type checkers and those inside functions, too.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "text": set(),
    "concurrency": set(),
    "values": set(),
    "rendering": set(),
    "api": {"errors", "text", "values"},
    "transport": {"api", "concurrency", "errors", "text", "values"},
    "jobs": {"api", "errors", "rendering", "text", "values"},
    "prompts": {"api", "errors", "jobs", "text", "values"},
    "storage": {"api", "concurrency", "errors", "jobs", "text", "values"},
    "tools": {"api", "concurrency", "errors", "jobs", "prompts", "text", "values"},
    "runtime": {
        "api", "concurrency", "errors", "jobs", "prompts", "storage", "tools", "transport",
        "values",
    },
    "batches": {"api", "concurrency", "errors", "jobs", "runtime", "storage", "transport"},
    "display": {"api", "errors", "jobs", "rendering", "storage", "text", "values"},
    "submission": {
        "api", "batches", "concurrency", "display", "errors", "jobs", "prompts", "runtime",
        "storage", "text", "tools", "values",
    },
    "sweeps": {
        "api", "errors", "jobs", "prompts", "runtime", "storage", "submission", "text", "values",
    },
    "public": {"errors", "jobs", "submission", "sweeps", "text", "transport"},
    "notebook": {
        "api", "display", "errors", "jobs", "local", "prompts", "rendering", "storage",
        "submission", "sweeps", "text", "values",
    },
    "server": {
        "api", "concurrency", "display", "errors", "jobs", "runtime", "storage", "submission",
        "text",
    },
    "local": set(),
    "": {"errors", "jobs", "notebook", "prompts", "public"},
    "__main__": {"", "api", "errors", "local", "storage", "submission", "text"},
}  # fmt: skip

# Each row stands on those below it; what stands in one row imports nothing of that row.
LAYERS = (
    ("errors", "text", "concurrency", "values", "rendering", "local"),
    ("api",),
    ("transport", "jobs"),
    ("storage", "prompts"),
    ("tools",),
    ("runtime", "display"),
    ("batches",),
    ("submission",),
    ("sweeps",),
    ("public", "notebook", "server"),
    ("", "__main__"),
)

# The files that may import each of these libraries.
HOMES = {
    "pydantic": {"api.structured_output", "tools.functions"},
    "fastjsonschema": {"api.structured_output"},
    "genai_prices": {"api.pricing"},
    # api.response: what users read is the SDK's own class, made when it is looked at.
    "openai": {"api.response", "transport.reply", "transport.sdk"},
    "aiohttp": {"transport.aiohttp_transport"},
    "httptools": {"transport.bounded"},
    "httpx2": {
        "transport.aiohttp_transport",
        "transport.bounded",
        "transport.http11",
        "transport.sdk",
    },
    "sqlite3": {
        "storage.batches",
        "storage.database",
        "storage.filesystem",
        "storage.journal",
        "storage.live_rows",
        "storage.reader",
        "storage.retention",
        "storage.search",
        "storage.unfollowed",
        "server.keep_watching",
        # What the file's reader raises there is a server's reply here.
        "server.handlers",
    },
    "filelock": {"local.discovery", "local.weights", "storage.owner_lock"},
    "jinja2": {"prompts.expressions", "prompts.sandbox"},
    "narwhals": {"prompts.tables"},
    "pandas": {"jobs.export", "jobs.group", "public"},
    "ipywidgets": {"display.card"},
    "comm": {"display.frontend"},
    "markdown_it": {"rendering.markdown", "rendering.math", "rendering.parser"},
    "mdit_py_plugins": {"rendering.parser"},
    "latex2mathml": {"rendering.mathml"},
    "pygments": {"rendering.highlight"},
    "nest_asyncio2": {"notebook.blocking"},
    "xllamacpp": {"local.engine"},
    "jupyter_server": {"server.handlers"},
    "watchfiles": {"server.watch"},
}
# IPython is for what it types into and what it shows; the extension's two hooks name its types.
IPYTHON = ("notebook", "display", "")

LONGEST = 450  # lines of a file
MOST_IN_PACKAGE = 12  # files, besides __init__
MOST = 130  # Python files in all, besides the packages' own docstrings; 90 before issues 16 to 19


@functools.cache
def files() -> dict[str, Path]:
    """Every module of the package by its name without ``bgmagic.``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def room_of(module: str) -> str:
    return module.partition(".")[0]


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """The full names of the modules that a file imports anywhere in it."""
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    known = {f"bgmagic.{name}" for name in files()}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            for alias in node.names:
                full = f"{module}.{alias.name}"
                yield full if full in known else module


def ours(module: str) -> set[str]:
    """The modules of the package that a module imports, by their names without ``bgmagic.``."""
    names = (name.partition(".") for name in imports(files()[module]))
    return {inner for root, _, inner in names if root == "bgmagic"}


@pytest.mark.parametrize("module", files())
def test_module_imports_only_what_its_room_may(module: str) -> None:
    """A module imports its own room and the rooms that the table allows, types and lazy ones too."""
    room = room_of(module)
    found = {room_of(name) for name in ours(module)} - {room}
    assert found <= ROOMS[room], f"{module} imports {found - ROOMS[room]}"


def test_table_allows_nothing_that_is_not_used() -> None:
    """Each arrow of the table is an import that exists."""
    used: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module in files():
        room = room_of(module)
        used[room] |= {room_of(name) for name in ours(module)} - {room}
    assert used == ROOMS


def test_imports_go_down_only() -> None:
    """No room imports one of its own row or of a row above it."""
    height = {room: row for row, rooms in enumerate(LAYERS) for room in rooms}
    assert height.keys() == ROOMS.keys()
    up = {
        (room, below)
        for room, allowed in ROOMS.items()
        for below in allowed
        # `python -m bgmagic` reports the version that the package has.
        if height[below] >= height[room] and (room, below) != ("__main__", "")
    }
    assert up == set()


def test_no_files_import_each_other() -> None:
    """Files form no circle: every one has a bottom, imports of every kind counted."""
    left = {module: ours(module) & files().keys() - {module} for module in files()}
    while left:
        bottom = [module for module, below in left.items() if not below & left.keys()]
        assert bottom, f"these import each other: {sorted(left)}"
        left = {module: below for module, below in left.items() if module not in bottom}


def test_contributing_has_the_table() -> None:
    """CONTRIBUTING's table names each room, with exactly the rooms that it may import."""
    rows = re.findall(r"^\| `([\w.]+)/?`[^|]*\|[^|]*\| ([^|]*) \|$", CONTRIBUTING, re.MULTILINE)
    told = {room: set(re.findall(r"`(\w+)`", allowed)) for room, allowed in rows}
    expected = {room: allowed for room, allowed in ROOMS.items() if room not in ("", "__main__")}
    assert told == expected


@pytest.mark.parametrize(("library", "homes"), HOMES.items())
def test_libraries_have_homes(library: str, homes: set[str]) -> None:
    """Each of these libraries is imported by the files that are its home, and by no other."""
    users = {
        module
        for module, path in files().items()
        for name in imports(path)
        if name.partition(".")[0] == library
    }
    assert users == homes


def test_ipython_is_known_above_only() -> None:
    """Only notebook/, display/ and the extension's hooks import IPython."""
    users = {
        room_of(module)
        for module, path in files().items()
        if any(name.partition(".")[0] == "IPython" for name in imports(path))
    }
    assert users <= set(IPYTHON)


def test_nobody_reaches_past_the_store() -> None:
    """Above storage/ the journal is asked through the store's queries only: nobody imports its SQL,
    or takes the journal out of the store."""
    above = {module: path for module, path in files().items() if room_of(module) != "storage"}
    allowed = {"StoredJob", "JournalError"}
    for module, path in above.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "bgmagic.storage.database":
                assert {alias.name for alias in node.names} <= allowed, module
            reaches = isinstance(node, ast.Attribute) and node.attr == "journal"
            assert not reaches, f"{module} reaches through to the journal"


def test_files_stay_few_and_readable() -> None:
    """No file is too long, no package has too many, and all together are few enough to know."""
    lengths = {module: len(path.read_text().splitlines()) for module, path in files().items()}
    assert {module: n for module, n in lengths.items() if n > LONGEST} == {}
    counts: dict[str, int] = {}
    packages = {module for module, path in files().items() if path.name == "__init__.py"}
    for module in files().keys() - packages:
        room = module.rpartition(".")[0]
        counts[room] = counts.get(room, 0) + 1
    assert {room: n for room, n in counts.items() if n > MOST_IN_PACKAGE} == {}
    assert sum(counts.values()) <= MOST
    assert packages - {""} == {room for room in counts if room}


def test_packages_say_what_they_promise() -> None:
    """A package's own file is a docstring of at most ten lines, and re-exports nothing."""
    for room in {room_of(module) for module in files() if "." in module} - {"local"}:
        tree = ast.parse((PACKAGE / room / "__init__.py").read_text())
        assert len(tree.body) == 1, room
        promise = ast.get_docstring(tree) or ""
        assert 1 <= len(promise.splitlines()) <= 10, room


PLAIN = "import sys, bgmagic"
LOADED = "; print(*sorted({m.split('.')[1] for m in sys.modules if m.startswith('bgmagic.')}))"


@pytest.mark.parametrize(
    ("moment", "code", "absent"),
    [
        (
            "import bgmagic",
            PLAIN,
            "api batches concurrency display errors notebook prompts public rendering runtime "
            "storage submission sweeps tools transport",
        ),
        (
            "%load_ext",
            "import sys\nfrom IPython.core.interactiveshell import InteractiveShell\n"
            "shell = InteractiveShell.instance()\nshell.run_line_magic('load_ext', 'bgmagic')",
            "batches concurrency prompts public rendering runtime storage sweeps tools transport",
        ),
        (
            "the first job",
            PLAIN + "\nbgmagic.submit('Why?').cancel()",
            "batches display sweeps notebook rendering",
        ),
        (
            "the first card",
            PLAIN + "\njob = bgmagic.submit('Why?'); job.card; job.cancel()",
            "sweeps notebook",
        ),
        (
            "the first sweep",
            PLAIN + "\nbgmagic.map('Why {{ item }}?', ['a', 'b']).cancel()",
            "batches display notebook rendering",
        ),
    ],
)
def test_rooms_are_loaded_when_needed(
    moment: str, code: str, absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing the package, loading the extension and the first job import no room they don't need."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    shown = subprocess.run(
        [sys.executable, "-c", code + LOADED], capture_output=True, text=True, check=True
    )
    loaded = set(shown.stdout.splitlines()[-1].split())
    assert loaded & set(absent.split()) == set(), moment
