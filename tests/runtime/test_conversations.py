"""Conversations that keep their reasoning: a turn goes on from the response that the server has, and
goes out whole where it can't."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgmagic.errors import BadInput
from bgmagic.jobs.record import Note
from bgmagic.public import submit
from bgmagic.submission.app import NoShell, app
from tests.api.test_request import CREATE
from tests.jobs.test_job import LIMIT, eventually
from tests.runtime.test_dependencies import bodies, question, restart, said_in
from tests.support.scripted import Script, ScriptedServer, response
from tests.support.shell import FakeShell

# How servers say that they do not have, or do not know, what a request goes on from.
FORGOTTEN = [
    (400, {"error": {"message": "Previous response with id '{}' not found.", "param": "previous_response_id", "code": "previous_response_not_found"}}),
    (404, {"error": {"message": "Response with id '{}' not found.", "type": "invalid_request_error"}}),
    (404, {"detail": "Response with id {} not found"}),
]  # fmt: skip
NEVER = [
    (400, {"error": {"message": "Unknown parameter: 'previous_response_id'."}}),
    (422, {"detail": [{"loc": ["body", "previous_response_id"], "msg": "Extra inputs are not permitted"}]}),
    (400, {"error": {"message": "llama.cpp does not support 'previous_response_id'."}}),
    (400, {"error": {"message": "Previous response cannot be used for this organization due to Zero Data Retention."}}),
]  # fmt: skip


@pytest.fixture
def keeping(
    pointed: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ScriptedServer]:
    """A server that goes on from a response by its id, and says so in each, as OpenAI's does."""
    monkeypatch.setenv("BGMAGIC_JOURNAL", str(tmp_path / "journal.sqlite3"))
    pointed.ending = lambda rid, body: response(rid, "completed", f"re: {question(body)}")
    pointed.shape = lambda whole: whole | {"previous_response_id": went_on(pointed, whole)}
    yield pointed
    app.shell = NoShell()
    restart()


def went_on(server: ScriptedServer, whole: dict[str, Any]) -> str | None:
    body = server._bodies.get(str(whole.get("id"))) or {}
    found: str | None = body.get("previous_response_id")
    return found


def said(turns: Any) -> list[str]:
    return [said_in(turn) for turn in turns]


def refusing(server: ScriptedServer, status: int, body: Any, response_id: str = "") -> None:
    """Refuse the next create so."""
    text = json.dumps(body).replace("{}", response_id)
    server.enqueue("create", Script(status=status, body=text.encode()))


def test_a_turn_goes_on_from_the_response(keeping: ScriptedServer) -> None:
    """A turn is sent alone with the id of the response before it, its instructions with it; the job
    knows all turns all the same, and any answer can be gone on from."""
    one = submit("one", poll=0.02, instructions="Be brief.").result(LIMIT)
    two = submit("two", poll=0.02, continue_=one).result(LIMIT)
    other = submit("other", poll=0.02, continue_=one).result(LIMIT)
    three = submit("three", poll=0.02, continue_=two).result(LIMIT)
    sent = bodies(keeping)
    assert [body.get("previous_response_id") for body in sent] == [
        None,
        "resp_1",
        "resp_1",
        "resp_2",
    ]
    assert [said(body["input"]) for body in sent] == [["one"], ["two"], ["other"], ["three"]]
    assert {body["instructions"] for body in sent} == {"Be brief."}
    for body in sent:
        CREATE.validate(body)
    assert said(three.conversation) == ["one", "re: one", "two", "re: two", "three", "re: three"]
    assert three.conversation.previous_response_id == "resp_2"
    assert (one.conversation.previous_response_id, said(other.conversation)[2]) == (None, "other")
    assert pickle.loads(pickle.dumps(three.conversation)) == list(three.conversation)
    assert three.job is not None
    assert said(three.job.request.body["input"]) == said(three.conversation)[:-1]


@pytest.mark.parametrize(("status", "body"), FORGOTTEN)
def test_what_the_server_forgot_is_sent_whole(
    keeping: ScriptedServer, status: int, body: Any
) -> None:
    """A server that has the response no more gets the very turn once more with all turns, written
    down before; the next turn goes on by its id again."""
    one = submit("one", poll=0.02).result(LIMIT)
    refusing(keeping, status, body, "resp_1")
    held = threading.Event()
    keeping.enqueue("create", Script(hold=held))
    job = submit("two", poll=0.02, continue_=one)
    eventually(lambda: len(bodies(keeping)) == 3)
    entry = app.manager.store.find(job.record.key)
    assert entry is not None
    assert (entry.status, entry.previous) == ("submitting", None)
    held.set()
    two = job.result(LIMIT)
    assert [said(sent["input"]) for sent in bodies(keeping)[1:]] == [
        ["two"],
        ["one", "re: one", "two"],
    ]
    assert two.conversation.previous_response_id is None
    assert Note.SENT_WHOLE in job.record.notes
    submit("three", poll=0.02, continue_=two).result(LIMIT)
    assert bodies(keeping)[-1]["previous_response_id"] == two.response_id


@pytest.mark.parametrize(("status", "body"), NEVER)
def test_servers_without_it_are_remembered(keeping: ScriptedServer, status: int, body: Any) -> None:
    """A server that can't go on by an id is asked for that once; from then on turns go out whole."""
    one = submit("one", poll=0.02).result(LIMIT)
    refusing(keeping, status, body)
    two = submit("two", poll=0.02, continue_=one).result(LIMIT)
    submit("three", poll=0.02, continue_=two).result(LIMIT)
    named = ["previous_response_id" in sent for sent in bodies(keeping)]
    assert named == [False, True, False, False]
    assert two.job.record.notes == (Note.NOT_BY_PREVIOUS,)
    assert len(bodies(keeping)[-1]["input"]) == 5


@pytest.mark.parametrize(
    ("script", "ended"),
    [
        (Script(reset="after"), "unknown"),
        (Script(status=500, json={"error": {"message": "previous_response_id failed"}}), "unknown"),
        (Script(status=400, json={"error": {"message": "Unknown model."}}), "failed"),
        (Script(status=401, json={"error": {"message": "previous_response_id"}}), "failed"),
    ],
)
def test_nothing_else_is_sent_twice(keeping: ScriptedServer, script: Script, ended: str) -> None:
    """What may have been accepted, and what is refused for another reason, is not sent once more."""
    one = submit("one", poll=0.02).result(LIMIT)
    keeping.enqueue("create", script)
    job = submit("two", poll=0.02, continue_=one)
    job.exception(LIMIT)
    assert (job.status, len(bodies(keeping))) == (ended, 2)


def test_a_turn_without_a_way_by_id_is_sent_whole(keeping: ScriptedServer) -> None:
    """All turns are sent where that is asked for, where the response does not stay or the server does
    not say that it goes on by ids, and after an unpickled answer; turns that only the server has are one
    line, and not left out in silence."""
    one = submit("one", poll=0.02).result(LIMIT)
    submit("two", poll=0.02, continue_=one, no_previous=True).result(LIMIT)
    submit("two", poll=0.02, continue_=pickle.loads(pickle.dumps(one))).result(LIMIT)
    usual = keeping.ending
    for more in ({"store": False}, {"output": [{"type": "function_call", "call_id": "c"}]}):
        keeping.ending = lambda rid, body, more=more: merged(usual(rid, body), more)
        odd = submit("odd", poll=0.02).result(LIMIT)
        submit("two", poll=0.02, continue_=odd).result(LIMIT)
        keeping.ending = usual
    keeping.shape = lambda whole: whole
    lean = submit("lean", poll=0.02).result(LIMIT)
    submit("two", poll=0.02, continue_=lean).result(LIMIT)
    for param, way in (
        ({"conversation": {"id": "conv_1"}}, "conversation=conv_1"),
        ({"previous_response_id": "resp_0"}, "previous_response_id=resp_"),
    ):
        held = submit("held", poll=0.02, param=param).result(LIMIT)
        with pytest.raises(BadInput, match=f"--param {way}"):
            submit("two", continue_=held)
    asked_two = [sent for sent in bodies(keeping) if question(sent) == "two"]
    assert [len(sent["input"]) for sent in asked_two] == [3] * 5
    assert not any("previous_response_id" in sent for sent in asked_two)


def merged(whole: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return whole | more | {"output": [*whole["output"], *more.get("output", [])]}


def test_a_server_that_passes_it_over_is_told_of(keeping: ScriptedServer) -> None:
    """A server that answers as if there had been no turns before is told of, and gets all from then on."""
    one = submit("one", poll=0.02).result(LIMIT)
    keeping.shape = lambda whole: whole | {"previous_response_id": None}
    job = submit("two", poll=0.02, continue_=one)
    two = job.result(LIMIT)
    assert Note.UNREAD in job.record.notes
    submit("three", poll=0.02, continue_=two).result(LIMIT)
    assert len(bodies(keeping)[-1]["input"]) == 5


def test_turns_that_wait_go_on_from_it_too(keeping: ScriptedServer) -> None:
    """A turn that was submitted before the one before it had ended goes on by its id, with what it had
    to wait for; a turn after one that failed goes on from the answer before that."""
    keeping.polls = 10**6
    one = submit("one", poll=0.02)
    two = submit("two {{ one }}", poll=0.02, continue_=one, fill={"one": one})
    whole = submit("three", poll=0.02, continue_=one, no_previous=True)
    keeping.polls = 0
    assert said(two.result(LIMIT).conversation)[2] == "two re: one"
    whole.result(LIMIT)
    by_id = {question(sent): sent.get("previous_response_id") for sent in bodies(keeping)}
    assert by_id == {"one": None, "two re: one": "resp_1", "three": None}
    usual, keeping.ending = keeping.ending, lambda rid, _: response(rid, "failed")
    failed = submit("four", poll=0.02, continue_=two)
    failed.exception(LIMIT)
    keeping.ending = usual
    five = submit("five", poll=0.02, continue_=failed).result(LIMIT)
    assert five.conversation.previous_response_id == two.response_id
    assert said(five.conversation)[-2:] == ["five", "re: five"]


def test_it_outlives_the_process(keeping: ScriptedServer) -> None:
    """A turn of an earlier process is gone on from by its id; one that could not be sent before the end
    is sent as it was written down; and a cell run again is known by all its turns."""
    app.shell = FakeShell({})
    submit("one", poll=0.02, out="chat").result(LIMIT)
    keeping.always["create"] = Script(status=429, json={"error": {"message": "later"}})
    job = submit("two", poll=0.02, out="chat2", continue_="chat")
    eventually(lambda: "later" in (job.record.trouble or ""))
    restart()
    del keeping.always["create"]
    two = submit("two", poll=0.02, out="chat2", continue_="chat").result(LIMIT)
    assert two.job is not None
    assert two.job.record.key == job.record.key
    assert bodies(keeping)[-1]["previous_response_id"] == "resp_1"
    assert len(bodies(keeping)[-1]["input"]) == 1
    posts = len(bodies(keeping))
    again = submit("two", poll=0.02, out="chat2", continue_="chat", reuse=True).result(LIMIT)
    assert (again, len(bodies(keeping))) == (two, posts)


def test_files_of_earlier_turns_are_not_sent_again(keeping: ScriptedServer) -> None:
    """What was attached to an earlier turn stays at the server, whatever form the answer has."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    keeping.ending = lambda rid, _: response(rid, "completed", '{"a": 1}')
    one = submit("one", poll=0.02, file=b"%PDF-1.7\n", schema=schema).result(LIMIT)
    submit("two", poll=0.02, continue_=one, schema=schema).result(LIMIT)
    assert "%PDF" not in json.dumps(bodies(keeping)[1]["input"])
    assert len(bodies(keeping)[1]["input"]) == 1
