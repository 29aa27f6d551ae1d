"""What Tab offers on the lines of the magics."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bgmagic.notebook.cell_magic import BgCellMagics
from bgmagic.notebook.completion import MAGICS, completions_at
from bgmagic.notebook.line_magics import BgLineMagics
from bgmagic.submission.options import options
from bgmagic.submission.settings import SubmitSettings
from tests.support.kernels import Kernel, kernel
from tests.support.scripted import ScriptedServer

NAMESPACE: dict[str, Any] = {"critique": 1, "rules": "", "_hidden": 2, "sys": sys, "In": []}


def at(marked: str) -> tuple[str, list[str]]:
    """What is offered at the bar in a cell, and what it replaces."""
    before, _, after = marked.partition("|")
    column = len(before.rpartition("\n")[2])
    raw, offers = completions_at(before + after, before.count("\n"), column, NAMESPACE)
    return raw, [text for text, _ in offers]


@pytest.mark.parametrize(
    ("marked", "raw", "texts"),
    [
        ("%%bgresponse --max-o|", "--max-o", ["--max-output-tokens"]),
        ("%%bgresponse -e |", "", ["none", "minimal", "low", "medium", "high", "xhigh", "max"]),
        ("%%bgresponse -e hi| -o x", "hi", ["high"]),
        ("%%bgresponse --effort=xh|", "xh", ["xhigh"]),
        ("%%bgresponse -v m|", "m", ["medium"]),
        ("%%bgresponse -o |", "", ["critique", "rules"]),
        ("%%bgresponse -o _|", "_", ["_hidden"]),
        ("%%bgresponse --schema r|", "r", ["rules"]),
        ("%%bgresponse --messages c|", "c", ["critique"]),
        ("%%bgresponse -i $r|", "$r", ["$rules"]),
        ('%%bgresponse -i "be brief" -v l|', "l", ["low"]),
        ("%%bgresponse --tool web|", "web", ["web_search", "web_search_preview"]),
        ("%%bgresponse -e high --ef|", "--ef", []),
        ("%%bgresponse --file a --fi|", "--fi", ["--file"]),
        ("\n  \n%%bgresponse -e hi|", "hi", ["high"]),
        ("%bglocal |", "", ["on", "off", "status"]),
        ("%bglocal o|", "o", ["on", "off"]),
        ("x = 1\n  %bgjobs --f|", "--f", ["--forget"]),
        ("%%bgresponse -o x\nWrite about -e hi|", "", []),
        ("x = 1\n%%bgresponse -e hi|", "", []),
        ("%%bgresponse|", "", []),
        ("%%bgresponses -e hi|", "", []),
        ("print(-e hi|", "", []),
        ("%%bgresponse --poll |", "", []),
    ],
)
def test_what_is_offered(marked: str, raw: str, texts: list[str]) -> None:
    """On a magic's line Tab offers what can stand there, replaces exactly what was begun, and nothing elsewhere."""
    found, offers = at(marked)
    assert offers == texts
    assert found == raw or not texts


def test_every_option_can_be_reached() -> None:
    """An empty place offers every option, and a dash every way of writing them."""
    assert at("%%bgresponse |")[1] == [option.flags[-1] for option in options(SubmitSettings)]
    every = [flag for option in options(SubmitSettings) for flag in option.flags]
    assert at("%%bgresponse -|")[1] == every


def test_every_magic_completes() -> None:
    """Each magic there is has its options in the completer."""
    magics = {f"%{name}" for name in BgLineMagics.magics["line"]}
    assert set(MAGICS) == magics | {f"%%{name}" for name in BgCellMagics.magics["cell"]}


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After --file come files and folders, quoted where the line needs it, hidden ones when asked for."""
    (tmp_path / "my data").mkdir()
    (tmp_path / "my data" / "a b.png").touch()
    (tmp_path / "plot.png").touch()
    (tmp_path / ".secret").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert at("%%bgresponse --file |")[1] == ["'my data/", "plot.png"]
    assert at("%%bgresponse --file 'my data/|") == ("'my data/", ["'my data/a b.png'"])
    assert at("%%bgresponse --file .|")[1] == [".secret"]
    assert at("%%bgresponse --file ~/pl|")[1] == ["~/plot.png"]
    assert at("%%bgresponse --file=pl|") == ("pl", ["plot.png"])
    assert at(f"%%bgresponse --file {tmp_path}/pl|")[1] == [f"{tmp_path}/plot.png"]
    (whole,) = at("%%bgresponse --file 'my data/|")[1]
    assert shlex.split(whole) == ["my data/a b.png"]


@given(st.text("%bgresponse -o'\"$={}\\\n/~é", max_size=30), st.integers(0, 30))
@example("%%bgresponse --file \0", 30)
def test_any_line_gives_what_it_replaces(text: str, cursor: int) -> None:
    """Whatever stands before the cursor, what would be replaced is the end of it."""
    before = f"%%bgresponse {text}"[: 13 + cursor].partition("\n")[0]
    try:
        raw, _ = completions_at(before, 0, len(before), NAMESPACE)
    except (OSError, ValueError):
        return  # a folder that can't be read; the matcher then offers nothing
    assert before.endswith(raw)


def complete(kernel: Kernel, marked: str) -> tuple[list[str], str]:
    """What a frontend gets from a kernel, and the text it replaces."""
    before, _, after = marked.partition("|")
    reply = kernel.client.complete(before + after, len(before), reply=True, timeout=60)
    content = reply["content"]
    replaced = (before + after)[content["cursor_start"] : content["cursor_end"]]
    return content["matches"], replaced


def test_in_a_kernel(in_kernel: Kernel, server: ScriptedServer) -> None:
    """JupyterLab's completion request gets ours alone on our lines, and never anything of ours after %unload_ext."""
    server.polls = 10**6
    in_kernel.ok("%%bgresponse -o critique\nWhy?")
    in_kernel.until("critique.running()")
    in_kernel.ok("higher = highest = 1")
    assert complete(in_kernel, "%%bgresponse -e hi|\nWhy?") == (["high"], "hi")
    assert complete(in_kernel, "%%bgresponse -o hi|\nWhy?") == (["higher", "highest"], "hi")
    assert complete(in_kernel, "%%bgresponse -i $cri|\nWhy?") == (["$critique"], "$cri")
    assert complete(in_kernel, "%bgwait |") == (["critique"], "")
    assert complete(in_kernel, "x = 1\n%bgcancel cr|") == (["critique"], "cr")
    assert "higher" in complete(in_kernel, "%%bgresponse -e high\nhi|")[0]
    in_kernel.ok("%reload_ext bgmagic")
    assert complete(in_kernel, "%%bgresponse -e hi|\nWhy?") == (["high"], "hi")
    in_kernel.ok("%unload_ext bgmagic")
    assert "high" not in complete(in_kernel, "%%bgresponse -e hi|\nWhy?")[0]
    assert in_kernel.value("get_ipython().Completer.custom_matchers") == "[]"


def test_jobs_of_an_earlier_kernel(server: ScriptedServer, lasting: dict[str, str]) -> None:
    """After a restart %bgattach offers what is still open, and %bgjobs and %bgwait what this kernel has."""
    server.polls = 10**6
    with kernel(**lasting) as first:
        first.ok("%load_ext bgmagic")
        first.ok("%%bgresponse -o critique\nWhy?")
        first.until("critique.running()")
    with kernel(**lasting) as second:
        second.ok("%load_ext bgmagic")
        assert complete(second, "%bgattach |") == (["critique"], "")
        assert complete(second, "%bgattach --al|") == (["--all"], "--al")
        assert complete(second, "%bgwait cr|")[0] != ["critique"]
        second.ok("%bgattach critique")
        assert complete(second, "%bgwait cr|") == (["critique"], "cr")
        assert complete(second, "%bgjobs cr|") == (["critique"], "cr")


def test_in_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """IPython in a terminal offers the same, without starting anything of ours for it."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    code = (
        "from IPython.terminal.interactiveshell import TerminalInteractiveShell as Shell\n"
        "from IPython.core.completer import provisionalcompleter\n"
        "shell = Shell.instance(); shell.run_line_magic('load_ext', 'bgmagic')\n"
        "line = '%%bgresponse --tool web_se'\n"
        "with provisionalcompleter():\n"
        "    found = list(shell.Completer.completions(line, len(line)))\n"
        "print([(c.text, c.start, c.end) for c in found])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    start, end = len("%%bgresponse --tool "), len("%%bgresponse --tool web_se")
    words = ["web_search", "web_search_preview"]
    assert ran.stdout.strip().splitlines()[-1] == str([(word, start, end) for word in words])
