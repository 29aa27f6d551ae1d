"""Who imports whom: the picture of the rooms, kept true."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bgmagic"
CONTRIBUTING = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
PICTURE = "\n".join(re.findall(r"```\n(.*?)```", CONTRIBUTING.partition("## To add")[0], re.DOTALL))

# Each room and the rooms it may import: the picture in CONTRIBUTING.md, from the bottom up.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "landing": set(),
    "display.widgets": set(),
    "textlike": set(),
    "packed": set(),
    "crowd": set(),
    "connections": set(),
    "incoming": {"replies"},
    "wire": {"incoming", "replies"},
    "direct": {"replies", "wire"},
    "display.frontend": set(),
    "display": set(),
    "display.escaping": set(),
    "display.math": {"display.escaping"},
    "display.highlight": {"display.escaping"},
    "display.markdown": {"display.math"},
    "display.render": {"display.escaping", "display.highlight", "display.markdown"},
    "citations": set(),
    "answer": {"citations", "display.render"},
    "loop": set(),
    "request": {"errors"},
    "place": set(),
    "pricing": set(),
    "prompt": {"errors", "values"},
    "server": {"errors"},
    "replies": {"errors", "server"},
    "status": {"place", "request"},
    "schema": {"errors"},
    "outcome": {"answer", "errors", "schema", "status"},
    "control": set(),
    "job": {
        "answer", "control", "errors", "outcome", "packed", "pricing", "request", "status",
        "textlike",
    },
    "reasons": {"job"},
    "farewell": {"errors", "job", "status"},
    "group": {
        "answer", "display.group_board", "display.group_shown", "errors", "job", "record", "status",
    },
    "telling": {"errors", "job"},
    "record": {"answer", "errors", "job", "place", "pricing", "redaction"},
    "tally": {"errors", "job", "pricing", "record"},
    "roster": {"job"},
    "sdk": {"connections", "errors", "server"},
    "stream": set(),
    "client": {
        "crowd", "direct", "errors", "packed", "replies", "request", "sdk", "server", "stream",
    },
    "poller": {"errors", "replies", "status"},
    "awaiting": {"answer", "draft", "errors", "job", "poller"},
    "listening": {"errors", "poller", "status", "stream"},
    "following": {
        "client", "errors", "job", "ledger", "listening", "poller", "replies", "status", "stream",
    },
    "lane": {"poller"},
    "plan": {"lane", "server"},
    "course": {
        "answer", "awaiting", "client", "draft", "errors", "following", "job", "ledger", "plan",
        "poller", "reasons", "replies", "request", "server", "status", "stream",
    },
    "convoy": {"course", "job", "ledger", "plan"},
    "store": {"errors"},
    "entries": {"store"},
    "journal": {"entries", "store"},
    "owners": {"errors"},
    "redaction": set(),
    "ledger": {
        "draft", "entries", "errors", "journal", "landing", "owners", "place", "redaction",
        "request", "server", "status", "store",
    },
    "fleet": {
        "awaiting", "client", "convoy", "course", "job", "ledger", "place", "plan", "poller",
        "server",
    },
    "again": {
        "answer", "control", "entries", "errors", "job", "ledger", "plan", "server", "status",
    },
    "manager": {
        "again", "control", "draft", "entries", "errors", "fleet", "job", "journal", "lane",
        "ledger", "loop", "owners", "place", "plan", "poller", "request", "roster", "server",
        "status",
    },
    "listing": {"answer", "errors", "status"},
    "values": {"errors"},
    "conversation": {"answer", "errors", "job", "values"},
    "inserting": {"errors", "values"},
    "expressions": {"errors", "inserting", "textlike", "values"},
    "template": {"answer", "errors", "expressions", "job", "values"},
    "draft": {"answer", "errors", "expressions", "request", "template"},
    "options": {"values"},
    "sweep": {"errors", "options", "values"},
    "attachments": {"errors", "values"},
    "tools": {"errors", "options", "values"},
    "extras": {"attachments", "options", "schema", "tools"},
    "composing": {
        "conversation", "draft", "errors", "extras", "job", "options", "prompt", "request",
        "template",
    },
    "dry_run": {"composing", "redaction"},
    "header": {"errors", "options", "values"},
    "submission": {
        "answer", "composing", "control", "conversation", "errors", "group", "job", "joining",
        "naming", "options", "sdk", "session", "status", "template", "values",
    },
    "naming": {"answer", "entries", "errors", "group", "job", "session", "values"},
    "asking": {
        "composing", "errors", "expressions", "options", "place", "pricing", "session",
        "submission", "sweep", "template", "values",
    },
    "grouping": {
        "asking", "dry_run", "entries", "errors", "group", "job", "joining", "lane", "ledger",
        "options", "place", "plan", "pricing", "request", "session", "status",
    },
    "regroup": {
        "display.group_shown", "entries", "errors", "group", "grouping", "naming", "request",
        "schema", "session", "telling",
    },
    "research": {
        "answer", "errors", "group", "grouping", "job", "record", "session", "submission", "values",
    },
    "joining": {"entries", "errors", "job", "place", "status"},
    "namespace": {"answer", "job"},
    "blocking": {"job"},
    "display.card": {"display.widgets", "errors", "job", "status"},
    "session": {
        "again", "control", "display.card", "errors", "farewell", "job", "journal", "ledger",
        "manager", "owners", "server",
    },
    "display.finished": {
        "answer", "citations", "display.card", "display.render", "errors", "job", "listing",
        "status",
    },
    "display.board": {"display.card", "display.widgets", "job", "listing"},
    "display.group_board": {
        "display.group_finished", "display.widgets", "errors", "job", "pricing", "tally",
    },
    "display.group_finished": {
        "display.finished", "errors", "pricing", "record", "status", "tally",
    },
    "display.shown": {
        "control", "display.board", "display.card", "display.finished", "display.frontend", "job",
        "listing",
    },
    "reporting": {
        "blocking", "display.shown", "errors", "header", "job", "regroup", "session", "submission",
        "telling",
    },
    "display.group_shown": {
        "display.frontend", "display.group_board", "display.group_finished", "display.shown",
    },
    "embedded": {"errors", "local", "local.discovery", "server"},
    "line_magics": {
        "display.shown", "embedded", "errors", "group", "header", "job", "listing", "namespace",
        "naming", "options", "regroup", "reporting", "request", "schema", "session", "submission",
        "telling", "values",
    },
    "completion": {
        "answer", "group", "job", "options", "reporting", "session", "submission", "values",
    },
    "magics": {
        "blocking", "completion", "composing", "display.shown", "dry_run", "errors", "grouping",
        "header", "job", "line_magics", "namespace", "options", "regroup", "reporting", "server",
        "session", "submission", "telling", "values",
    },
    "": {"answer", "errors", "group", "job", "magics", "research", "status", "submission"},
    "__main__": {"", "errors", "local", "local.discovery", "server", "session"},
}  # fmt: skip

# The one room that may import each of these.
ALONE = {
    "pydantic": {"schema"},
    "fastjsonschema": {"schema"},
    "openai": {"replies", "sdk"},
    "aiohttp": {"connections"},
    "httpx2": {"connections", "incoming", "sdk", "wire"},
    "httptools": {"incoming"},
    "nest_asyncio2": {"blocking"},
    "sqlite3": {"entries", "journal", "store"},
    "anywidget": {"display.board", "display.card", "display.group_board"},
    "genai_prices": {"pricing"},
    "pandas": {"group", "record"},
    "markdown_it": {"display.markdown", "display.math", "display.render"},
    "pygments": {"display.highlight"},
    "jinja2": {"expressions"},
    "xllamacpp": {"local.engine"},
    "IPython": {
        "display.frontend",
        "reporting",
        "magics",
        "line_magics",
        "blocking",
        "namespace",
        "display.shown",
        "display.group_shown",
        "completion",
        "",
    },
}


@functools.cache
def rooms() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found.append((".".join(part for part in parts if part != "__init__"), path))
    return found


@functools.cache
def imports(path: Path) -> list[tuple[str, bool]]:
    return list(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Each imported module, and whether it is imported only for type checking."""
    tree = ast.parse(path.read_text())
    known = {f"bgmagic.{name}" for name, _ in rooms()}
    typing = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            for alias in node.names:
                full = f"{module}.{alias.name}"
                yield (full if full in known else module), id(node) in typing


def ours(path: Path) -> set[str]:
    """The rooms that a file imports at run time."""
    names = {name for name, typing in imports(path) if not typing}
    return {
        name.removeprefix("bgmagic").removeprefix(".")
        for name in names
        if name.split(".")[0] == "bgmagic"
    }


@pytest.mark.parametrize(("room", "path"), list(rooms()), ids=lambda value: str(value)[-30:])
def test_room_imports_only_what_it_may(room: str, path: Path) -> None:
    """A room imports only the rooms below it that the picture shows; local/ imports nothing outside."""
    if room.split(".")[0] == "local":
        assert {name.split(".")[0] for name in ours(path)} <= {"local"}
    else:
        assert ours(path) <= ROOMS[room], f"{room} imports {ours(path) - ROOMS[room]}"


def test_picture_has_no_rooms_that_are_not_there() -> None:
    """The picture names exactly the rooms there are, and no arrow that nobody uses."""
    found = {room: ours(path) for room, path in rooms() if room.split(".")[0] != "local"}
    assert found == ROOMS


def drawn() -> Iterator[tuple[str, str]]:
    """The arrows in CONTRIBUTING.md that lie within a line, by the last part of the rooms' names."""
    for line in re.sub(r"\(.*?\)", "", PICTURE).splitlines():
        for chain in re.findall(r"[\w/]+(?:, [\w/]+)*(?: ─+► [\w/]+(?:, [\w/]+)*)+", line):
            links = [part.split(", ") for part in re.split(" ─+► ", chain)]
            for left, right in pairwise(links):
                yield from ((last(left[-1]), last(room)) for room in right)


def last(room: str) -> str:
    return room.rstrip("/").replace("/", ".").rpartition(".")[2]


def test_drawing_is_as_the_table_says() -> None:
    """The picture in CONTRIBUTING.md has every room, and no arrow in a line of it that is not so."""
    words = set(re.findall(r"\w+", PICTURE))
    assert {last(room) for room in ROOMS} - words - {""} == set()
    true = {(last(room), last(below)) for room, belows in ROOMS.items() for below in belows}
    assert len(list(drawn())) > 50
    assert set(drawn()) - true == set()


def test_picture_has_no_circles() -> None:
    """Below every room there is a bottom: imports go one way."""
    left = {room: set(below) & set(ROOMS) for room, below in ROOMS.items()}
    while left:
        bottom = [room for room, below in left.items() if not below & set(left)]
        assert bottom, f"these import each other: {sorted(left)}"
        left = {room: below for room, below in left.items() if room not in bottom}


@pytest.mark.parametrize(("module", "allowed"), ALONE.items())
def test_libraries_have_one_room(module: str, allowed: set[str]) -> None:
    """Each of these libraries is imported by its own room and no other."""
    users = {
        room
        for room, path in rooms()
        for name, typing in imports(path)
        if name.split(".")[0] == module and not (typing and module == "IPython")
    }
    assert users <= allowed


def test_files_stay_readable() -> None:
    """No file of the package is longer than 450 lines."""
    lengths = {path: len(path.read_text().splitlines()) for _, path in rooms()}
    assert {path: n for path, n in lengths.items() if n > 450} == {}
