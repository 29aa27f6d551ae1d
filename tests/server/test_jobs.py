"""What Jupyter Server tells the panel: a real server, the journal on a real file."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bgmagic.api.pricing import Billing
from bgmagic.api.request import Request
from bgmagic.server.rows import JobRows
from bgmagic.storage.database import StoredJob
from bgmagic.storage.journal import Journal
from bgmagic.storage.owner_lock import OwnerLock, host_id
from bgmagic.storage.reader import LISTED, NEWS, JournalReader
from bgmagic.storage.unfollowed import move_jobs

pytest.importorskip("jupyter_server")

Get = Callable[..., tuple[int, Any]]


def job(key: str, **columns: Any) -> StoredJob:
    """A job of the journal."""
    plain: dict[str, Any] = {
        "created_at": time.time(), "notebook": "", "name": key, "server": "https://api.openai.com/v1",
        "organization": None, "project": None, "credentials": "", "fingerprint": key,
        "request": '{"model": "gpt-5.2", "input": "Why <b>so</b>?"}', "sendable": True,
        "model": "gpt-5.2", "effort": None, "poll_interval": None, "deadline": 100.0,
        "status": "queued", "owner": None,
    }  # fmt: skip
    return StoredJob(**{"key": key} | plain | columns)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal on a file."""
    made = Journal(tmp_path / ".journal.sqlite3")
    yield made
    made.close()


def response_text(text: str) -> str:
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"type": "message", "role": "assistant", "content": [part]}
    return json.dumps({"id": "resp_1", "status": "completed", "model": "m", "output": [message]})


def billing(model: str) -> str:
    """What tells the price of a response with a million tokens of input."""
    tokens = {"input_tokens": 1_000_000, "output_tokens": 0, "total_tokens": 1_000_000}
    asked = Request(json.dumps({"model": model}))
    return Billing.of(asked, {"model": model, "usage": tokens}).text


def renames(running: Any, journal: Journal, folder: Path) -> dict[str, str]:
    """Where the jobs of two notebooks are in the end. One is renamed with its kernel alive, while the
    journal is busy; the other takes the name that is free then, and that this kernel goes on using."""
    import psutil

    def ask(path: str, method: str = "GET", about: object = None) -> Any:
        headers = {"Authorization": f"token {running.token}"}
        data = None if about is None else json.dumps(about).encode()
        asked = urllib.request.Request(running.base + path, data, headers, method=method)
        with urllib.request.urlopen(asked) as reply:
            return json.loads(reply.read() or "null")

    def rename(old: str, new: str) -> None:
        ask(f"/api/contents/{old}.ipynb", "PATCH", {"path": f"{new}.ipynb"})

    for name in "abc":
        (folder / f"{name}.ipynb").touch()  # that nobody reads
    about = {"path": "a.ipynb", "name": "a.ipynb", "type": "notebook"}
    opened = ask("/api/sessions", "POST", about | {"kernel": {"name": "python3"}})
    (kernel,) = psutil.Process(running.process.pid).children()
    a, b, ended = str(folder / "a.ipynb"), str(folder / "b.ipynb"), {"ended_at": 2.0}
    own = {"owner": f"{host_id()}-{kernel.pid}-00", "created_at": time.time() + 60}
    rows = [job("a", notebook=a, created_at=1.0, **ended), job("own", notebook=a, **own)]
    journal.add(*rows, job("b", notebook=b, created_at=1.0, **ended)).result(60)
    with contextlib.closing(sqlite3.connect(folder / ".journal.sqlite3")) as busy:
        busy.execute("BEGIN IMMEDIATE")
        rename("c", "d")
        rename("a", "its")
        ask(f"/api/sessions/{opened['id']}", "PATCH", {"path": "its.ipynb"})
        busy.rollback()
    rename("b", "a")
    ask(f"/api/sessions/{opened['id']}", "DELETE")
    return {row["key"]: row.get("path") for row in ask("/bgmagic/jobs")["jobs"]}


def test_what_the_server_says(journal: Journal, tmp_path: Path) -> None:
    """Jobs of all notebooks, their news and their answers come as JSON to whom the server lets in, to
    nobody else; what a model wrote is no markup, and nothing can be changed. Each notebook has its own
    jobs, also where one takes another's name."""
    from tests.support.browser import jupyter_server

    (tmp_path / "sub").mkdir()
    inside, outside = str(tmp_path / "sub" / "a.ipynb"), "/elsewhere/b.ipynb"
    ended = {
        "ended_at": time.time(),
        "status": "completed",
        "response": response_text("*It* <script>x</script>"),
    }
    terminal = job("terminal", notebook=f"{tmp_path}/", **ended)
    second = job("second", notebook=outside, **ended)
    journal.add(job("first", notebook=inside), second, terminal).result(60)
    with jupyter_server(tmp_path) as running:

        def ask(path: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
            asked = urllib.request.Request(
                f"{running.base}/bgmagic/jobs{path}", method=method, headers=headers
            )
            try:
                with urllib.request.urlopen(asked) as reply:
                    return reply.status, json.loads(reply.read())
            except urllib.error.HTTPError as error:
                return error.code, None

        mine = {"Authorization": f"token {running.token}"}
        for path in ("", "?since=0", "/first"):
            assert ask(path)[0] == 403
            assert ask(path, "POST", **mine)[0] == 405
        status, told = ask("", **mine)
        assert (status, told["count"]) == (200, 3)
        rows = {row["key"]: row for row in told["jobs"]}
        assert (rows["first"]["path"], rows["first"]["open"]) == ("sub/a.ipynb", True)
        assert "path" not in rows["second"]
        assert rows["second"]["notebook"] == "b.ipynb"
        assert "path" not in rows["terminal"]  # it is a folder, which is no notebook to open
        assert rows["terminal"]["notebook"] == f"{tmp_path.name}/"
        assert not any("Why" in str(row) for row in told["jobs"])
        journal.change("first", status="in_progress").result(60)
        news = ask(f"?since={told['at'] + 3600}", **mine)[1]["jobs"]
        assert [(row["key"], row["status"]) for row in news] == [("first", "in_progress")]
        one = ask("/second", **mine)[1]
        assert "<em>It</em>" in one["html"]
        assert "<script" not in one["html"]
        assert one["prompt"] == "Why <b>so</b>?"
        assert [ask(path, **mine)[0] for path in ("/none", "?since=x")] == [404, 400]
        moved = renames(running, journal, tmp_path)
        assert (moved["a"], moved["own"], moved["b"]) == ("its.ipynb", "its.ipynb", "a.ipynb")
        # The journal is watched by now, on a thread: the server ends all the same.
        running.process.terminate()
        assert running.process.wait(60) is not None


def test_rows_have_prices(journal: Journal, tmp_path: Path) -> None:
    """A row of an ended job has its price in dollars, where that is known; an open one has none."""
    pytest.importorskip("genai_prices")
    asked = Request('{"model": "gpt-5.2", "input": "Why?"}')
    paid = billing("gpt-5.2")
    ended = {"ended_at": time.time(), "status": "completed", "response_id": "resp_1"}
    journal.add(
        job("paid", billing=paid, **ended),
        job("strange", billing=billing("our-own"), **ended),
        job("open", billing=Billing.of(asked).text, response_id="resp_2"),
    ).result(60)
    reader = JournalReader(tmp_path / ".journal.sqlite3")
    rows = {row["key"]: row.get("price") for row in JobRows(reader, None).listed(None)["jobs"]}
    price = rows.pop("paid")  # by a table of others, whose numbers change
    assert price > 0.01
    assert rows == {"strange": None, "open": None}
    reader.close()


ODD = [b"\xff\x00", 5, 9e999, "\x1b[2J", "[]", "{", None]


def test_a_row_that_is_none_hides_no_other(journal: Journal, tmp_path: Path) -> None:
    """A row whose columns hold what they are not for is left out or told as it can be: the others are
    listed all the same, as JSON, and no key that could be more than a name becomes a part of a cell."""
    good = job("good", ended_at=2.0, status="completed", response=response_text("Yes."))
    journal.add(good, job("x\n!echo", ended_at=2.0)).result(60)
    rows = JobRows(JournalReader(tmp_path / ".journal.sqlite3"), tmp_path)
    assert [row["key"] for row in rows.listed(None)["jobs"]] == ["good"]
    with contextlib.closing(sqlite3.connect(tmp_path / ".journal.sqlite3")) as file:
        file.execute("PRAGMA journal_mode")
        names = [row[1] for row in file.execute("PRAGMA table_info(jobs)") if row[1] != "id"]
        for name, value in itertools.product(names, ODD):
            key = uuid.uuid4().hex
            journal.add(job(key, ended_at=2.0, status="completed")).result(60)
            with contextlib.suppress(sqlite3.IntegrityError), file:
                file.execute(f"UPDATE jobs SET {name} = ? WHERE key = ?", (value, key))
            listed = [rows.listed(since)["jobs"] for since in (None, 0.0)]
            assert all("good" in [row["key"] for row in found] for found in listed)
            json.dumps([listed, rows.one(key), rows.one("good")], allow_nan=False)
            with file:
                file.execute("DELETE FROM jobs WHERE key NOT IN ('good')")


def test_jobs_follow_their_notebook(journal: Journal, tmp_path: Path) -> None:
    """Jobs take the new name of their notebook or folder: not those of a living kernel, of a neighbour
    whose name begins alike, nor, sent later, of another notebook that has the old name by then."""
    kernel, process = OwnerLock(tmp_path / "owners"), f"{host_id()}-7"
    kernel.acquire()
    sent = {
        "gone": ("/n/a/one.ipynb", None, 10.0),
        "restarted": ("/n/a/one.ipynb", f"{process}-00", 30.0),
        "namesake": ("/n/a/one.ipynb", f"{host_id()}-77-00", 30.0),
        "alive": ("/n/a/one.ipynb", kernel.id, 10.0),
        "spared": ("/n/a/two.ipynb", None, 10.0),
        "near": ("/n/a/one.ipynb2", None, 10.0),
        "above": ("/n/ab/one.ipynb", None, 10.0),
    }
    rows = [job(key, notebook=n, owner=o, created_at=at) for key, (n, o, at) in sent.items()]
    journal.add(*rows).result(60)
    journal.close()
    path = tmp_path / ".journal.sqlite3"

    def moved(old: str, new: str, **about: Any) -> dict[str, str]:
        move_jobs(path, old, new, 20.0, **about)
        found = {row.key: row.notebook for row in JournalReader(path).select(LISTED, limit=-1)}
        return {key: name for key, name in found.items() if name != sent[key][0]}

    first = moved("/n/a/one.ipynb", "/n/a/1.ipynb", process=process)
    assert first == dict.fromkeys(("gone", "restarted"), "/n/a/1.ipynb")
    assert moved("/n/a", "/m", process=process, but=["/n/a/two.ipynb"]) == {
        **dict.fromkeys(("gone", "restarted"), "/m/1.ipynb"),
        "near": "/m/one.ipynb2",
    }
    kernel.release()
    assert moved("/n/a", "/m")["alive"] == "/m/one.ipynb"
    assert move_jobs(tmp_path / "none.sqlite3", "/n", "/m", 20.0) == 0
    assert not (tmp_path / "none.sqlite3").exists()


def test_reader_makes_nothing(tmp_path: Path) -> None:
    """Without a journal there are no jobs, and no file is made."""
    reader = JournalReader(tmp_path / "journal.sqlite3")
    assert reader.select(LISTED, limit=5) == []
    assert reader.count() == 0
    assert list(tmp_path.iterdir()) == []


def test_reader_of_a_file_that_is_being_made(tmp_path: Path) -> None:
    """A journal whose tables a kernel is just making has no jobs yet, and then has them."""
    path = tmp_path / "journal.sqlite3"
    path.touch()
    reader = JournalReader(path)
    assert reader.select(LISTED, limit=5) == []
    made = Journal(path)
    made.add(job("first")).result(60)
    assert [entry.key for entry in reader.select(LISTED, limit=5)] == ["first"]
    made.close()
    reader.close()


def test_reader_of_an_older_file(journal: Journal, tmp_path: Path) -> None:
    """A file that lacks the newest columns is read without them, and stays as it is."""
    import sqlite3

    journal.add(job("first", billing="{}")).result(60)
    journal.close()
    with sqlite3.connect(tmp_path / ".journal.sqlite3") as connection:
        connection.execute("ALTER TABLE jobs DROP COLUMN billing")
        connection.execute("ALTER TABLE jobs DROP COLUMN group_details")
    connection.close()
    reader = JournalReader(tmp_path / ".journal.sqlite3")
    (found,) = reader.select(NEWS, since=0)
    assert (found.key, found.billing, found.group_details) == ("first", None, None)
    reader.close()


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    """A journal whose path the system refuses is a line for the panel, no traceback of the server."""
    import asyncio

    from tornado import web

    from bgmagic.server.handlers import Jobs

    jobs = Jobs(tmp_path / ("x" * 300), None, lambda: None)
    with pytest.raises(web.HTTPError) as caught:
        asyncio.run(jobs.one("key"))
    assert caught.value.status_code == 503
