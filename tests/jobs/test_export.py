"""Jobs as lines of JSON and as a table: whole, atomic, and without keys."""

# ruff: noqa: F811 - fixtures of another file are used by their names
from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

import bgmagic
from bgmagic.errors import BadInput
from bgmagic.jobs.export import export_line, job_row, prompt_of, write_lines
from bgmagic.jobs.job import Job
from bgmagic.jobs.outcome import settle
from bgmagic.submission.app import app
from tests.conftest import KEY
from tests.jobs.test_answer import hostile
from tests.jobs.test_group import (  # noqa: F401
    Ask,
    ask,
    echo,
    kernel_of,
)
from tests.jobs.test_job import LIMIT, eventually
from tests.support.scripted import ScriptedServer, response
from tests.support.shell import FakeShell


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def test_an_export_has_everything_and_no_key(
    ask: Ask,
    pointed: ScriptedServer,
    kernel_of: Callable[[], Any],
    tmp_path: Path,
) -> None:
    """A line has the prompt, the request, the response, times, tokens and the group's item; a key is in
    none of it, wherever it stood; jobs of earlier kernels of the notebook are there too."""
    pointed.ending = lambda rid, body: echo(rid, body) | {"note": f"you sent {KEY}"}
    ask(f"Say {{{{ item }}}}, not {KEY}", ["a", "b"], n=2, out="x").result(LIMIT)
    kernel_of()
    ask("Late: {{ item }}", {"k": "c"}).result(LIMIT)
    path = tmp_path / "out.jsonl"
    assert bgmagic.export(path) == 5
    assert KEY not in path.read_text()
    told = lines_of(path)
    assert [one["prompt"] for one in told] == [
        *["Say a, not [secret]"] * 2, *["Say b, not [secret]"] * 2, "Late: c",
    ]  # fmt: skip
    first, last = told[0], told[-1]
    assert first["text"] == "re: Say a, not [secret]"
    assert first["body"]["model"] == "gpt-5.2"
    assert first["response"]["id"] == first["response_id"]
    assert (first["tokens_in"], first["tokens_out"], first["tokens_reasoning"]) == (3, 5, 2)
    assert (first["price"], first["error"], first["status"]) == (None, None, "completed")
    assert first["submitted_at"] <= first["accepted_at"] <= first["ended_at"]
    assert first["ended_at"].endswith("+00:00")
    assert first["seconds"] >= 0
    assert (first["group"]["item"], first["group"]["sample"], first["name"]) == ("a", 0, "x[0]")
    assert (last["group"]["key"], last["group"]["kind"]) == ("k", "dict")


def test_which_jobs_are_exported(
    ask: Ask,
    pointed: ScriptedServer,
    tmp_path: Path,
) -> None:
    """All of this notebook, all of everybody, or those that are given: jobs, answers, groups, lists."""
    group = ask("{{ item }}", ["a", "b"])
    group.result(LIMIT)
    app.shell = FakeShell(notebook="/elsewhere.ipynb")
    job = bgmagic.submit("c", poll=0.02)
    job.result(LIMIT)
    path = tmp_path / "out.jsonl"
    assert bgmagic.export(path, jobs=group) == 2
    assert bgmagic.export(path, jobs=job) == 1
    assert bgmagic.export(path, jobs=[group[0], job, group]) == 4
    assert bgmagic.export(path, all=True) == 3
    assert bgmagic.export(path, jobs=[]) == 0
    for wrong in ("text", 7, [7]):
        with pytest.raises(BadInput, match="takes jobs, answers and groups"):
            bgmagic.export(path, jobs=wrong)  # type: ignore[arg-type]


def test_failures_and_what_still_runs_are_told(
    ask: Ask,
    pointed: ScriptedServer,
    tmp_path: Path,
) -> None:
    """A job that failed has its error and its partial text, one that runs its status and no end."""
    pointed.ending = lambda rid, body: (
        response(rid, "incomplete", "half", incomplete_details={"reason": "max_output_tokens"})
        if "one" in str(body["input"])
        else response(rid, "in_progress")
    )
    group = ask("{{ item }}", ["one", "two"])
    eventually(lambda: group.jobs[0].done() and group.jobs[1].running())
    path = tmp_path / "out.jsonl"
    bgmagic.export(path, jobs=group)
    one, two = lines_of(path)
    assert (one["status"], one["text"]) == ("incomplete", "half")
    assert "max_output_tokens" in one["error"]
    assert (two["error"], two["ended_at"], two["seconds"], two["text"]) == (None, None, None, "")
    assert job_row(group.jobs[0])["text"] == "half"
    assert job_row(group.jobs[1])["text"] is None


def test_what_is_no_path() -> None:
    """What is no path is one line."""
    with pytest.raises(BadInput, match=r"^export\(\) takes the path of a file, not"):
        bgmagic.export(None)  # type: ignore[arg-type]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """An earlier export is replaced, another file only on purpose; what fails half-way leaves the file
    as it was and nothing beside it; a place that can't be written to is one line."""
    path = tmp_path / "out.jsonl"
    assert write_lines(path, [{"bgmagic": 1, "n": n} for n in range(3)]) == 3
    assert write_lines(path, [{"bgmagic": 1, "text": "half \ud800"}]) == 1
    assert lines_of(path)[0]["text"] == "half \ud800"

    def broken() -> Any:
        yield {"bgmagic": 1}
        raise RuntimeError("power cut")

    before = path.read_bytes()
    with pytest.raises(RuntimeError):
        write_lines(path, broken())
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["out.jsonl"]
    other = tmp_path / "thesis.txt"
    other.write_text("years of work")
    with pytest.raises(BadInput, match="no export of bgmagic; overwrite=True"):
        write_lines(other, [])
    assert other.read_text() == "years of work"
    assert write_lines(other, [], overwrite=True) == 0
    pipe = tmp_path / "pipe"
    if hasattr(os, "mkfifo"):  # not on Windows
        os.mkfifo(pipe)
    else:
        pipe.mkdir()
    for name in ("a\0b", "\ud800"):
        with pytest.raises(BadInput, match=r"^no file can be called '"):
            write_lines(Path(name), [])
    with pytest.raises(BadInput, match="is no file"):
        write_lines(pipe, [], overwrite=True)
    assert pipe.exists()
    assert not pipe.is_file()
    with pytest.raises(BadInput, match="can't be written"):
        write_lines(tmp_path / "no" / "out.jsonl", [])


@given(hostile)
def test_any_response_can_be_told(response: dict[str, Any]) -> None:
    """Whatever a server calls a response, its line is JSON and its row has all columns."""
    job = done_job(response)
    told = json.loads(json.dumps(export_line(job, [KEY])))
    assert told["key"] == job.record.key
    assert {"status", "seconds", "tokens_in", "price", "text", "error"} <= set(job_row(job))


def done_job(response: dict[str, Any]) -> Job:
    from bgmagic.api.request import Request
    from bgmagic.jobs.record import JobRecord

    record = JobRecord(
        request=Request('{"input": []}'),
        server="https://api.openai.com/v1",
        submitted_at=1.0,
        accepted_at=2.0,
        ended_at=3.0,
        status="completed",
        response=response,
    )
    job = Job(record, None)  # type: ignore[arg-type]
    settle(job)
    return job


def test_the_prompt_of_any_request() -> None:
    """The prompt is the text of the last user turn, however that is written."""
    part = {"type": "input_text", "text": "b"}
    assert prompt_of({"input": [{"role": "user", "content": "a"}]}) == "a"
    assert prompt_of({"input": [{"role": "user", "content": [part, {"type": "input_image"}]}]}) == "b"  # fmt: skip
    assert prompt_of({"input": [{"role": "assistant", "content": "a"}]}) == ""
    assert (prompt_of({"input": "a"}), prompt_of({})) == ("a", "")
    image = {"input": [{"role": "user", "content": [part, {"type": "input_image"}]}]}
    assert prompt_of(image, others=True) == "b\n[input_image]"
