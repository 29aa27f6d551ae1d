"""%bgjobs --search in real kernels."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from tests.support.kernels import kernel
from tests.support.scripted import ScriptedServer


def test_a_journal_of_a_newer_version(lasting: dict[str, str]) -> None:
    """A journal that can't be read is named, and it is not said that it has nothing."""
    Path(lasting["BGMAGIC_JOURNAL"]).parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(lasting["BGMAGIC_JOURNAL"])) as newer:
        newer.execute("CREATE TABLE jobs (key TEXT)")
        newer.execute("PRAGMA user_version = 99")
    with kernel(**lasting) as one:
        one.ok("%load_ext bgmagic")
        said = one.ok("%bgjobs --search matter").stdout
    assert "was written by a newer bgmagic" in said
    assert "in the journal has" not in said
    assert "No prompt or answer of this kernel has matter." in said


def test_found_from_another_notebook(lasting: dict[str, str], server: ScriptedServer) -> None:
    """What one notebook asked is found from another one, with a snippet of the place; whatever is
    looked for is no error, and bad input is one line. A job whose prompt waits for another is found,
    too."""
    with kernel(**lasting | {"JPY_SESSION_NAME": "/home/me/stars.ipynb"}) as first:
        first.ok("%load_ext bgmagic")
        first.ok("%%bgresponse -o halo --wait\nWhere is the <i>dark</i> matter?")
        first.ok("%%bgresponse -o other --wait\nWhy?")
    server.polls = 10**6
    with kernel(**lasting | {"JPY_SESSION_NAME": "/home/me/mine.ipynb"}) as second:
        second.ok("%load_ext bgmagic")
        second.ok("%%bgresponse -o runs\nfirst")
        second.ok("%%bgresponse -o waits\nA dark {{ runs }}")
        ran = second.ok("%bgjobs --search 'DARK mat'")
        shown = ran.displays[-1]
        assert "<i>" not in shown["text/html"]
        assert "Where is the &lt;i&gt;<b>dark</b>&lt;/i&gt; matter?" in shown["text/html"]
        assert "stars.ipynb" in shown["text/html"]
        assert (
            second.value("[j.name for j in __import__('bgmagic').jobs(search='dark')]")
            == "['waits', 'halo']"
        )
        assert second.value("__import__('bgmagic').jobs(search='answer')[0].text") == "'the answer'"
        for odd in ('"dark', "AND", "*", "'NEAR(\"a\", 2)'", "--search", "-", "'a\" OR \"b'"):
            said = second.run(f"%bgjobs --search={odd}").said
            assert said.count("\n") == 0, said
        assert "nothing to look for" in second.run("%bgjobs --search ''").said
        assert "takes no --forget" in second.run("%bgjobs --search dark --forget").said
        assert "takes no matter" in second.run("%bgjobs --search dark matter").said
        assert second.ok("%bgjobs --search nowhere").said == (
            "No prompt or answer in the journal has nowhere."
        )
        assert "completed" in second.ok("%bgjobs halo").said
