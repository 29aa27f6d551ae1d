"""The search: what users look for is found in what the journal has, whoever wrote it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.errors import BadInput
from bgmagic.jobs.matching import asked_text, fold, given_text, match, search_words
from bgmagic.storage import search as module
from bgmagic.storage.database import SHARED_INPUT, StoredJob
from bgmagic.storage.journal import Journal
from bgmagic.storage.search import JournalSearch, index_path
from tests.storage.test_journal import TIMEOUT, entry, opened


def job(key: str, asked: str, answered: str | None = None, at: float = 1.0) -> StoredJob:
    """A job that asks that, and has ended if it was answered."""
    parts = [{"type": "input_text", "text": asked}]
    said = {"type": "message", "content": [{"type": "output_text", "text": answered}]}
    return entry(
        key,
        created_at=at,
        request=json.dumps({"model": "m", "input": [{"role": "user", "content": parts}]}),
        response=None if answered is None else json.dumps({"id": "r", "output": [said]}),
        ended_at=None if answered is None else at,
    )


def found(search: JournalSearch, text: str, most: int | None = None) -> list[str]:
    words = search_words(text, "--search")
    return [one.key for one in search.find(words, most, lambda _: None).entries]


def told(search: JournalSearch) -> JournalSearch:
    """The same once FTS5 was told of all texts."""
    if search._thread is not None:
        search._thread.join(TIMEOUT)
        assert not search._thread.is_alive()
    return search


@pytest.fixture(params=["file", "memory", "unwritable", "another version", "no FTS5"])
def searched(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Journal, JournalSearch]]:
    """A journal and its search, in every place where the index can or can't be."""
    path = None if request.param == "memory" else tmp_path / "journal.sqlite3"
    if request.param == "no FTS5":
        monkeypatch.setattr(module, "_GRAMS", module._GRAMS.replace("fts5", "fts9"))
    if path and request.param == "unwritable":
        index = index_path(path)
        assert index is not None
        index.mkdir()
    if path and request.param == "another version":
        other = sqlite3.connect(str(index_path(path)))
        other.execute("PRAGMA user_version = 99")
        other.close()
    with opened(path) as journal:
        search = JournalSearch(journal)
        yield journal, search
        search.close()


def test_what_is_found(searched: tuple[Journal, JournalSearch]) -> None:
    """Each word counts, in prompt or answer, in any case, without accents, also within words; every
    other character stands for itself; the newest come first."""
    journal, search = searched
    journal.add(
        job("old", "Where is the café\nof the Halos?", "Beside\tthe dark matter", at=1.0),
        job("new", "print(\"halo\") AND f(x) * 2 - 'y'", "50% of \\n_ {}", at=3.0),
        job("parts", "uvw vwx", at=0.5),
        job("waits", "Straße nach 北京大学", at=2.0),
    ).result(TIMEOUT)
    expected = {
        "halo": ["new", "old"],
        "HALOS": ["old"],
        "cafe": ["old"],
        "CAFÉ dark": ["old"],
        '"café of the"': ["old"],
        '"of café"': [],
        "dark halo": ["old"],
        "ark atte": ["old"],
        "strasse": ["waits"],
        "京大": ["waits"],
        "北": ["waits"],
        'print("halo")': ["new"],
        '"halo"': ["new", "old"],
        '"halo': ["new"],
        "AND": ["new"],
        "*": ["new"],
        "- 2": ["new"],
        "50%": ["new"],
        "5_%": [],
        "\\n_": ["new"],
        "NEAR(halo)": [],
        "text:halo": [],
        "vwx": ["parts"],
        "uvwx": [],  # which has no other trigrams
        "input_text": [],  # of the request, not of what was asked
    }
    for again in range(2):  # before FTS5 was told of them, and afterwards
        assert {text: found(search, text) for text in expected} == expected, again
        told(search)
    assert found(search, "halo", 1) == ["new"]


@pytest.mark.parametrize("text", ["", "  ", "\u0301", '" "'])
def test_nothing_to_look_for(text: str) -> None:
    """A search without a word is one line that says what to write."""
    with pytest.raises(BadInput, match=r"^--search has nothing to look for"):
        search_words(text, "--search")


def test_quotes_alone_are_looked_for() -> None:
    """Two quotes with nothing between them are no phrase, but characters to be found."""
    assert search_words('""', "--search") == ('""',)


@given(st.text(max_size=12), st.lists(st.text(max_size=30), max_size=3))
def test_any_search_of_any_text(text: str, said: list[str]) -> None:
    """Whatever is looked for in whatever text: the index finds what Python finds, and says no more."""
    try:
        words = search_words(text, "--search")
    except BadInput:
        return
    with opened(None) as journal:
        search = JournalSearch(journal)
        for number, one in enumerate(said):
            clean = one.encode("utf-8", "replace").decode()
            journal.add(job(str(number), clean, at=float(number)))
        for _ in range(2):
            expected = [
                str(number)
                for number, one in enumerate(said)
                if all(word in fold(one.encode("utf-8", "replace").decode()) for word in words)
            ]
            assert found(search, text) == expected[::-1]
            told(search)
        search.close()


def test_index_follows_the_journal(tmp_path: Path) -> None:
    """A search finds what was added, answered and completed since the last one, by other kernels
    too, and no longer what was forgotten; of that nothing stays in the index."""
    path = tmp_path / "journal.sqlite3"
    with opened(path) as journal, opened(path) as other:
        search, theirs = JournalSearch(journal), JournalSearch(other)
        long = "lorem " * SHARED_INPUT
        for number in range(4):
            journal.add(job(f"k{number}", f"{long} {number}", at=float(number)))
        journal.change("k1", response=job("x", "", "a quasar").response, ended_at=2.0)
        assert found(search, "lorem quasar") == found(theirs, "lorem quasar") == ["k1"]
        told(search), told(theirs)
        other.add(job("k9", "pulsar", "of theirs", at=9.0)).result(TIMEOUT)
        assert found(search, "pulsar theirs") == ["k9"]
        told(search)
        assert search.forget_after(journal.forget(["k1", "k9"])).result(TIMEOUT) == 2
        assert found(theirs, "quasar") == found(theirs, "pulsar") == []
        assert len(found(search, "lorem")) == 3
        index = index_path(path)
        assert index is not None
        left = index.read_bytes()
        assert b"pulsar" not in left
        assert b"quasar" not in left
        assert index.stat().st_mode & 0o777 == 0o600
        search.close(), theirs.close()


def test_a_damaged_index_is_made_anew(tmp_path: Path) -> None:
    """An index that is garbage, or vanishes while it is used, costs a reading and nothing else."""
    path = tmp_path / "journal.sqlite3"
    index = index_path(path)
    assert index is not None
    with opened(path) as journal:
        journal.add(job("one", "halo", "yes")).result(TIMEOUT)
        index.write_bytes(b"no database at all" * 1000)
        search = JournalSearch(journal)
        assert found(search, "halo") == ["one"]
        told(search)
        index.unlink()
        assert found(search, "halo") == ["one"]
        search.close()
        again = JournalSearch(journal)
        assert found(again, "halo") == ["one"]
        again.close()


def test_the_journal_is_not_held(tmp_path: Path) -> None:
    """While an index is told of texts and locked, jobs are written down as ever."""
    path = tmp_path / "journal.sqlite3"
    with opened(path) as journal:
        search = JournalSearch(journal)
        journal.add(job("one", "halo")).result(TIMEOUT)
        assert found(search, "halo") == ["one"]
        told(search)
        holder = sqlite3.connect(str(index_path(path)), isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        journal.add(job("two", "halo")).result(TIMEOUT)
        holder.execute("ROLLBACK")
        holder.close()
        assert sorted(found(search, "halo")) == ["one", "two"]
        search.close()


ODD: list[Any] = [None, 3, "text", [], {}, {"input": 3}, {"output": [None, 3, {"content": 5}]}]


@pytest.mark.parametrize("value", ODD)
def test_any_json_is_read(value: Any) -> None:
    """Whatever JSON stands where a request or a response should be, reading it raises nothing."""
    assert isinstance(asked_text(value), str)
    assert isinstance(given_text(value), str)


def test_files_are_not_text() -> None:
    """Names, types and the bytes of files in a request are not looked at."""
    body = {
        "model": "halo",
        "input": [{
            "role": "halo",
            "content": [
                {"type": "input_image", "image_url": "data:image/png;base64,halo"},
                {"type": "input_text", "text": "Why?"},
            ],
        }],
    }  # fmt: skip
    assert asked_text(body) == "Why?"


def test_snippet_is_of_the_text_as_it_is() -> None:
    """The snippet is a line of the text itself around what was found, also where folding changes
    its length, and has no control characters."""
    asked = "ﬃ " * 40 + "naïve CAFÉ\x1b[31m\n" + "ß" * 300
    at = match(search_words("cafe", "x"), asked, "")
    assert at is not None
    assert (at.place, at.found) == ("prompt", "CAFÉ")
    assert at.before.startswith("…")
    assert at.before.endswith("naïve ")
    assert at.after.startswith("[31m ß")
    assert at.after.endswith("…")
    assert "\x1b" not in str(at)
    both = match(("dark", "matter"), "dark", "matter and dark")
    assert both is not None
    assert str(both) == "answer: matter and dark"
    assert match(("dark", "nothing"), "dark", "") is None


def test_a_first_search_says_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before many texts are read the caller is told how many, and not again."""
    monkeypatch.setattr(module, "MANY", 5)
    with opened(None) as journal:
        search = JournalSearch(journal)
        journal.add(*(job(str(number), f"halo {number}") for number in range(20)))
        said: list[int] = []
        assert len(search.find(("halo",), None, said.append).entries) == 20
        assert len(search.find(("halo",), 3, said.append).entries) == 3
        assert said == [20]
        search.close()
