"""Prompts that build on each other: waiting for answers, and conversations; in plain Python."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bgmagic
from bgmagic.api.request import Request
from bgmagic.errors import BadInput
from bgmagic.jobs.job import Answer, Job
from bgmagic.jobs.outcome import JobCancelled, JobFailed
from bgmagic.prompts.template import PartialPrompt, compile_template
from bgmagic.public import jobs, submit
from bgmagic.public import map as map_jobs
from bgmagic.runtime.dependencies import DependencyWaiter
from bgmagic.runtime.manager import JobManager
from bgmagic.storage.job_store import JobStore
from bgmagic.submission.app import NoShell, app
from tests.api.test_request import CREATE
from tests.conftest import KEY
from tests.jobs.test_job import LIMIT, eventually
from tests.support.scripted import Script, ScriptedServer, response
from tests.support.shell import FakeShell


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "journal.sqlite3"
    monkeypatch.setenv("BGMAGIC_JOURNAL", str(place))
    return place


@pytest.fixture
def chain(pointed: ScriptedServer, path: Path) -> Iterator[ScriptedServer]:
    """A server whose answer to every question is "re: " and the question."""
    pointed.ending = lambda rid, body: response(rid, "completed", f"re: {question(body)}")
    yield pointed
    restart()


def question(body: Any) -> str:
    return str(body["input"][-1]["content"][0]["text"])


def said_in(turn: dict[str, Any]) -> str:
    content = turn["content"]
    return content if isinstance(content, str) else str(content[0]["text"])


def restart() -> None:
    """End this process's manager, as the end of a kernel does; the next use makes a new one."""
    if app._manager is not None:
        app._manager.close(60)
        app._manager = None


def ask(text: str, /, **fill: Any) -> Job:
    return submit(text, poll=0.02, fill=fill)


def bodies(server: ScriptedServer) -> list[Any]:
    return [seen.body for seen in server.seen if seen.kind == "create"]


def test_a_chain_is_sent_link_by_link(chain: ScriptedServer) -> None:
    """Ten prompts that each need the one before are submitted at once, and sent one after another,
    each with the answer before it."""
    chain.polls = 10**6
    links = [ask("0")]
    for number in range(1, 10):
        links.append(ask(f"{number} {{{{ before }}}}", before=links[-1]))
    assert [job.status for job in links[1:]] == ["waiting"] * 9
    assert repr(links[1]).startswith("<Job waiting for another job ")
    chain.polls = 0
    assert links[-1].result(LIMIT) == "re: " + " ".join(f"{n} re:" for n in range(9, 0, -1)) + " 0"
    assert [question(body)[0] for body in bodies(chain)] == list("0123456789")


def test_many_wait_for_one_and_one_for_many(chain: ScriptedServer) -> None:
    """Several jobs can wait for one, and one for several, also in a list."""
    chain.polls = 10**6
    first = ask("first")
    eventually(lambda: first.running())
    twins = [ask(f"{n} {{{{ first | upper }}}}", first=first) for n in (1, 2)]
    last = ask("{{ twins }} {{ twins[0] | length }} {{ n }}", twins=twins, n=7)
    assert last.record.waits_for == ("another job", "another job")
    chain.polls = 0
    text = "- re: 1 RE: FIRST\n- re: 2 RE: FIRST 15 7"
    assert last.result(LIMIT) == f"re: {text}"
    assert len(bodies(chain)) == 4


def test_of_many_jobs_only_those_that_are_named_are_needed(chain: ScriptedServer) -> None:
    """An expression that names single jobs of a group or a list waits for these alone, whatever comes of
    the others, and is the same request before and after they end; what names no part waits for all."""
    chain.ending = lambda rid, body: response(
        rid, "failed" if question(body) == "two" else "completed", f"re: {question(body)}"
    )
    chain.polls = 10**6
    group = map_jobs("{{ item }}", {"a": "one", "b": "two"}, poll=0.02)
    one, two = group.jobs
    values = {"g": group, "l": [one, object(), two, one]}
    named = "{{ g['a'] | upper }}, {{ g.a }}, {{ l[-1] }}, {{ l[:1] }}"
    job = ask(named, **values)

    def draft() -> PartialPrompt:
        return PartialPrompt.of(compile_template(named).render(values, waiting=True), None)

    before = draft()
    assert before.needs == (one.record.key,)
    assert ask("{{ g | length }}", g=group).record.waits_for == ("group['a']", "group['b']")
    chain.polls = 0
    expected = "re: RE: ONE, re: one, re: one, - re: one"
    assert job.result(LIMIT) == expected
    eventually(group.done)
    assert draft() == before
    assert ask(named, **values).result(LIMIT) == expected
    for whole in ("{{ g.b }}", "{{ g | length }}", "{{ l[2:] }}"):
        with pytest.raises(BadInput, match=r"group\['b'\] is failed and has no answer"):
            ask(whole, **values)


def test_values_are_those_of_the_submission(chain: ScriptedServer) -> None:
    """What stands beside a running job is filled in at submission, whatever changes later."""
    chain.polls = 10**6
    first = ask("first")
    values = {"first": first, "note": ["early"]}
    job = submit("{{ note }} {{ first }}", poll=0.02, fill=values)
    values["note"][0] = "late"  # type: ignore[index]
    values["first"] = "late"
    chain.polls = 0
    assert job.result(LIMIT) == "re: - early re: first"


@pytest.mark.parametrize("expression", ["first[:n]", "first + note", "[first, n]", "first ~ fn"])
def test_a_running_job_stands_alone(chain: ScriptedServer, expression: str) -> None:
    """An expression with a running job takes nothing but jobs, literals and filters beside it."""
    chain.polls = 10**6
    first = ask("first")
    with pytest.raises(BadInput, match=r"give \w+ braces of its own"):
        ask(f"{{{{ {expression} }}}}", first=first, n=3, note="x", fn=len)
    assert ask("{{ first[:3] | upper }}", first=first).record.waits_for
    eventually(lambda: chain.count("create") == 1)


def test_jobs_deep_within_lists_and_dicts(chain: ScriptedServer) -> None:
    """Jobs are waited for wherever they stand in lists and dicts, with text and numbers beside them; what
    else is beside them is one line, as is a list that holds itself, and text that can't be sent."""
    chain.polls = 10**6
    first = ask("first")
    mixed = {"a": [[first, 1.5, None]], "b": {}, "c": "x"}
    job = ask("{{ mixed | tojson }}", mixed=mixed)
    itself: list[Any] = [first]
    itself.append(itself)
    for value, told in (
        ({"a": [first, object()]}, "beside or within an object"),
        ({1: first}, "beside or within a dict"),
        (itself, "beside or within a list"),
        ([first, "\ud800"], r"U\+D800, half a character"),
    ):
        with pytest.raises(BadInput, match=told):
            ask("{{ value }}", value=value)
    chain.polls = 0
    assert job.result(LIMIT) == 're: {"a": [["re: first", 1.5, null]], "b": {}, "c": "x"}'
    done = {"a": [[first]]}
    assert ask("{{ done.a[0][0] }}", done=done).result(LIMIT) == "re: re: first"
    assert len(bodies(chain)) == 3


def test_what_it_needs_fails(chain: ScriptedServer) -> None:
    """If what a job waits for does not complete, it ends as failed, says which and why, and is never
    sent; so do those that wait for it."""
    chain.ending = lambda rid, _: response(rid, "failed", error={"code": "oops", "message": "no"})
    chain.polls = 10**6
    first = ask("first")
    second = ask("{{ first }}", first=first)
    third = ask("{{ second }}", second=second)
    chain.polls = 0
    with pytest.raises(JobFailed, match="oops: no") as caught:
        third.result(LIMIT)
    assert str(caught.value).startswith("not sent: it needs the answer of the other job, which is ")
    assert second.status == "failed"
    assert len(bodies(chain)) == 1
    with pytest.raises(BadInput, match="is failed and has no answer"):
        ask("{{ first }}", first=first)


@pytest.mark.parametrize(
    "ending", ["cancelled", "incomplete", "lost", "unknown", "refused", "empty"]
)
def test_what_it_needs_has_no_answer(chain: ScriptedServer, ending: str) -> None:
    """However a job ends without an answer, what needs it ends as failed, says so in those words, and is
    not sent; nor can it be asked for again."""
    refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}
    status = ending if ending in ("cancelled", "incomplete") else "completed"
    output = [refusal] if ending == "refused" else []
    chain.ending = lambda rid, _: response(rid, status, "part") | {"output": output}
    chain.polls, go = 10**6, threading.Event()
    if ending == "unknown":
        chain.enqueue("create", Script(reset="after", hold=go))
    first = ask("first")
    second = ask("{{ first }}", first=first)
    go.set()
    eventually(lambda: first.response_id or ending == "unknown")
    if ending == "lost":
        gone = {"error": {"message": "Response not found.", "type": "invalid_request_error"}}
        chain.by_id[str(first.response_id)] = Script(status=404, json=gone)
    chain.polls = 0
    error = second.exception(LIMIT)
    assert isinstance(error, JobFailed)
    assert f"it needs the answer of the other job, which is {first.status}: " in str(error)
    assert str(first.error) in str(error)
    with pytest.raises(BadInput, match=f"is {first.status} and has no answer"):
        ask("{{ first }}", first=first)
    assert len(bodies(chain)) == 1


def test_an_expression_that_fails_with_the_answer(chain: ScriptedServer) -> None:
    """An expression that the answer makes fail ends the waiting job, which is not sent."""
    chain.polls = 10**6
    first = ask("first")
    second = ask("{{ first.nosuch }}", first=first)
    chain.polls = 0
    with pytest.raises(JobFailed, match="has no attribute 'nosuch'"):
        second.result(LIMIT)
    assert len(bodies(chain)) == 1


def test_cancel_while_waiting(chain: ScriptedServer) -> None:
    """A waiting job can be cancelled: it is never sent, and what it waited for goes on."""
    chain.polls = 10**6
    first = ask("first")
    second = ask("{{ first }}", first=first)
    assert second.cancel()
    with pytest.raises(JobCancelled, match="before it was sent"):
        second.result(LIMIT)
    chain.polls = 0
    assert first.result(LIMIT) == "re: first"
    assert (len(bodies(chain)), chain.count("cancel")) == (1, 0)


def test_waiting_survives_a_restart(chain: ScriptedServer) -> None:
    """A chain is picked up by the next process, from its last link: what that needs is followed too,
    and each is sent once."""
    chain.polls = 10**6
    first = ask("first")
    eventually(lambda: first.response_id)
    second = ask("2 {{ first }} {{ 'x' | upper }}", first=first)
    third = ask("3 {{ second }}", second=second)
    journal = app.manager.store.journal
    eventually(lambda: len(journal.entries(open_only=True)) == 3)
    keys = [job.record.key for job in (first, second, third)]
    restart()
    assert third.done()
    with pytest.raises(bgmagic.Detached):
        third.result(0)
    chain.polls = 0
    entry = app.manager.store.journal.find(keys[2])
    assert entry is not None
    again = app.manager.attach(entry)
    assert again.result(LIMIT) == "re: 3 re: 2 re: first X"
    assert len(bodies(chain)) == 3
    kept = app.manager.store.journal.find(keys[1])
    assert kept is not None
    assert (kept.draft, question(json.loads(kept.request))) == (None, "2 re: first X")


def test_needs_nothing_but_the_journal(chain: ScriptedServer) -> None:
    """A waiting job whose need ended before the restart is sent with the journal's answer; one whose
    need was removed from the journal ends, and says so."""
    chain.polls = 10**6
    first, other = ask("first"), ask("other")
    waiting = [ask("{{ first }}{{ other }}", first=first, other=other), ask("{{ o }}", o=other)]
    journal = app.manager.store.journal
    eventually(lambda: len(journal.entries(open_only=True)) == 4)
    eventually(lambda: first.response_id and other.response_id)
    chain.by_id[str(first.response_id)] = Script(json=response("x", "completed", "re: first"))
    first.result(LIMIT)
    restart()
    journal = app.manager.store.journal
    entry = journal.find(waiting[0].record.key)
    assert entry is not None
    job = app.manager.attach(entry)
    eventually(lambda: job.record.waits_for == (other.response_id,) or job.done())
    chain.polls = 0
    assert job.result(LIMIT) == "re: re: firstre: other"
    journal.forget([other.record.key]).result(LIMIT)
    restart()
    entry = app.manager.store.journal.find(waiting[1].record.key)
    assert entry is not None
    with pytest.raises(JobFailed, match="no longer in the journal"):
        app.manager.attach(entry).result(LIMIT)


def test_one_that_needs_two_is_known_again(chain: ScriptedServer) -> None:
    """Its cell run again while one of two needs has ended is still the same request: the draft of a
    prompt does not depend on how many of its jobs have ended."""
    chain.polls = 10**6
    first, second = ask("first"), ask("second")
    template = compile_template("{{ first }} {{ second }} {{ n }} {{ first[:n] if n < 3 else n }}")
    values: dict[str, Any] = {"second": second, "n": 3}
    with pytest.raises(BadInput):
        template.render(values | {"first": first})
    template = compile_template("{{ first }} {{ second }} {{ n }}")
    before = PartialPrompt.of(template.render(values | {"first": first}), None)
    eventually(lambda: first.response_id)
    chain.by_id[str(first.response_id)] = Script(json=response("x", "completed", "re: first"))
    answer = first.result(LIMIT)
    after = PartialPrompt.of(template.render(values | {"first": answer}), None)
    assert before == after
    assert before.needs == (first.record.key, second.record.key)


def test_run_again_as_the_answer_comes(
    chain: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell that is run again in the moment between the answer it waited for and its own sending joins:
    it is not sent twice."""
    came, go_on = threading.Event(), threading.Event()
    usual = DependencyWaiter.run

    async def slowly(self: DependencyWaiter, partial: PartialPrompt) -> Any:
        answers = await usual(self, partial)
        came.set()
        await asyncio.to_thread(go_on.wait, LIMIT)
        return answers

    monkeypatch.setattr(DependencyWaiter, "run", slowly)
    values: dict[str, Any] = {}
    monkeypatch.setattr(app, "shell", FakeShell(values))
    chain.polls = 10**6
    values["one"] = first = ask("one")
    job = submit("2 {{ one }}", poll=0.02, out="two", fill=values)
    assert submit("2 {{ one }}", poll=0.02, out="two", fill=values) is job
    chain.polls = 0
    assert came.wait(LIMIT)
    values["one"] = first.result(LIMIT)
    assert job.status == "waiting"
    again = submit("2 {{ one }}", poll=0.02, out="two", fill=values)
    other = submit("3 {{ one }}", poll=0.02, out="two", fill=values)
    go_on.set()
    assert again is job
    assert [one.result(LIMIT) for one in (job, other)] == ["re: 2 re: one", "re: 3 re: one"]
    assert len(bodies(chain)) == 3


def test_conversation_goes_on(chain: ScriptedServer) -> None:
    """A conversation is sent whole, as messages in the API's form; instructions carry over unless they
    are given again; any earlier answer can be gone on from."""
    one = submit("one", poll=0.02, instructions="Be brief.").result(LIMIT)
    two = submit("two", poll=0.02, continue_=one).result(LIMIT)
    three = submit("three", poll=0.02, continue_=two, instructions="Be long.").result(LIMIT)
    other = submit("other", poll=0.02, continue_=one).result(LIMIT)
    sent = bodies(chain)
    assert [body.get("instructions") for body in sent] == [
        *["Be brief."] * 2,
        "Be long.",
        "Be brief.",
    ]
    turns = [
        {"role": "user", "content": [{"type": "input_text", "text": "one"}]},
        {"type": "message", "role": "assistant", "content": "re: one"},
        {"role": "user", "content": [{"type": "input_text", "text": "two"}]},
        {"type": "message", "role": "assistant", "content": "re: two"},
        {"role": "user", "content": [{"type": "input_text", "text": "three"}]},
    ]
    assert [body["input"] for body in sent[:3]] == [turns[:1], turns[:3], turns]
    assert sent[3]["input"][:2] == turns[:2]
    assert sent[3]["input"][2]["content"][0]["text"] == "other"
    for body in sent:
        CREATE.validate(body)
    assert three.conversation[:5] == turns
    assert other.conversation[-1]["content"] == "re: other"
    kept: Answer = pickle.loads(pickle.dumps(two))
    assert kept.conversation == two.conversation
    again = submit("again", poll=0.02, continue_=kept).result(LIMIT)
    assert bodies(chain)[-1]["instructions"] == "Be brief."
    assert again.conversation[:4] == turns[:4]


def test_conversation_waits_for_its_turn(chain: ScriptedServer) -> None:
    """Turns can be submitted before the one before them has ended, also with a prompt that waits."""
    chain.polls = 10**6
    one = submit("one", poll=0.02, instructions="Be brief.")
    side = submit("side", poll=0.02)
    two = submit("two {{ side }}", poll=0.02, continue_=one, fill={"side": side})
    three = submit("three", poll=0.02, continue_=two)
    assert three.record.waits_for == ("another job",)
    chain.polls = 0
    answer = three.result(LIMIT)
    said = [said_in(turn) for turn in answer.conversation]
    assert said == ["one", "re: one", "two re: side", "re: two re: side", "three", "re: three"]
    assert answer.instructions == "Be brief."


def test_conversation_outlives_the_process(chain: ScriptedServer) -> None:
    """An earlier process's conversation goes on from the journal, by its name, also when the server has
    forgotten it, and while it is still open."""
    app.shell = FakeShell({})
    try:
        submit("one", poll=0.02, out="chat").result(LIMIT)
        chain.polls = 10**6
        submit("two", poll=0.02, out="chat2", continue_="chat")
        journal = app.manager.store.journal
        eventually(
            lambda: any(entry.response_id and not entry.ended_at for entry in journal.entries())
        )
    finally:
        app.shell = NoShell()
    restart()
    chain.responses.pop("resp_1")
    chain.polls = 0
    three = submit("three", poll=0.02, continue_="chat2").result(LIMIT)
    said = [said_in(turn) for turn in three.conversation]
    assert said == ["one", "re: one", "two", "re: two", "three", "re: three"]
    assert [job.name for job in jobs() if job.name] == ["chat2"]


def test_after_a_failed_turn(chain: ScriptedServer) -> None:
    """After a turn without an answer the conversation goes on from the one before; without any answer
    before, or with something else, it is one line and nothing is sent."""
    usual = chain.ending
    one = submit("one", poll=0.02, instructions="Be brief.").result(LIMIT)
    chain.ending = lambda rid, _: response(rid, "failed")
    chain.polls = 10**6
    failed = submit("two", poll=0.02, continue_=one)
    needs_failed = submit("three", poll=0.02, continue_=failed)
    chain.polls = 0
    assert needs_failed.exception(LIMIT)
    chain.ending = usual
    four = submit("four", poll=0.02, continue_=needs_failed).result(LIMIT)
    assert [said_in(turn) for turn in four.conversation[:3]] == [
        "one",
        "re: one",
        "four",
    ]
    assert four.instructions == "Be brief."
    chain.ending = lambda rid, _: response(rid, "failed")
    lonely = submit("lonely", poll=0.02)
    assert lonely.exception(LIMIT)
    count = len(bodies(chain))
    for wrong, told in (
        (lonely, "no answer before it"),
        (["a"], "it holds a list"),
        ("nosuch", "no variable 'nosuch'"),
    ):
        with pytest.raises(BadInput, match=told):
            submit("five", continue_=wrong)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="give one of them"):
        submit("five", continue_=four, messages=[{"role": "user", "content": "x"}])
    assert len(bodies(chain)) == count


def test_waits_for_another_kernel(chain: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose need another living kernel follows waits for that kernel to write the answer down."""
    monkeypatch.setattr("bgmagic.runtime.dependencies.RETRY", 0.05)
    chain.polls = 10**6
    first = ask("first")
    eventually(lambda: first.response_id)
    second = ask("{{ first }}", first=first)
    journal = app.manager.store.journal
    eventually(lambda: len(journal.entries(open_only=True)) == 2)
    theirs, app._manager = app._manager, None
    assert theirs is not None
    # As if that kernel had died but for the job it follows.
    theirs._loop.run(_give_up(theirs, second)).result(LIMIT)
    entry = app.manager.store.journal.find(second.record.key)
    assert entry is not None
    job = app.manager.attach(entry)
    eventually(lambda: "alive" in (job.record.trouble or ""))
    chain.polls = 0
    assert job.result(LIMIT) == "re: re: first"
    assert len(bodies(chain)) == 2
    assert theirs.close(LIMIT)


async def _give_up(manager: Any, job: Job) -> None:
    await manager._scheduler._stop([manager._scheduler._runners[job]])
    await manager.store.update(job.record, owner=None)


@contextlib.contextmanager
def two_kernels() -> Iterator[tuple[JobManager, JobManager]]:
    """Two managers of one journal, both alive, as of two kernels."""
    made = []
    for _ in range(2):
        app._manager = None
        made.append(app.manager)
    yield made[0], made[1]
    app._manager = None
    for manager in made:
        assert manager.close(60)


def keys_of(jobs: list[Job]) -> list[str]:
    """The jobs' keys, once the journal has them all; then their kernel ends."""
    journal = app.manager.store.journal
    eventually(lambda: len(journal.entries(open_only=True)) == len(jobs))
    eventually(lambda: jobs[0].response_id)
    restart()
    return [job.record.key for job in jobs]


def picked(manager: JobManager, key: str) -> Job:
    entry = manager.store.journal.find(key)
    assert entry is not None
    return manager.attach(entry)


def test_two_kernels_attach_a_chain(
    chain: ScriptedServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two kernels that each take another link of the same chain send every link once: who needs a link
    of the other's waits until that is answered."""
    monkeypatch.setattr("bgmagic.runtime.dependencies.RETRY", 0.05)
    chain.polls = 10**6
    links = [ask("0")]
    for n in range(1, 4):
        links.append(ask(f"{n} {{{{ before }}}}", before=links[-1]))
    keys = keys_of(links)
    with two_kernels() as (one, other):
        middle = picked(one, keys[1])
        eventually(lambda: middle.record.waits_for)
        last = picked(other, keys[3])
        eventually(lambda: any("alive" in (job.record.trouble or "") for job in other.jobs()))
        chain.polls = 0
        assert last.result(LIMIT) == "re: 3 re: 2 re: 1 re: 0"
        assert middle.result(LIMIT) == "re: 1 re: 0"
        assert [len(manager.jobs()) for manager in (one, other)] == [2, 2]
    assert [question(body)[0] for body in bodies(chain)] == list("0123")


def test_two_kernels_attach_everything(
    chain: ScriptedServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two kernels that attach a whole chain in the same moment send every link once; whichever has the
    last link gets its answer, the other's says that it is followed elsewhere."""
    monkeypatch.setattr("bgmagic.runtime.dependencies.RETRY", 0.05)
    chain.polls = 10**6
    links = [ask("0")]
    for n in range(1, 5):
        links.append(ask(f"{n} {{{{ before }}}}", before=links[-1]))
    keys = keys_of(links)
    chain.polls = 0
    with two_kernels() as managers, ThreadPoolExecutor(2) as threads:
        entries = [[m.store.journal.find(key) for key in keys] for m in managers]
        both = threads.map(
            lambda pair: [_taken(pair[0], entry) for entry in pair[1]],
            zip(managers, entries, strict=True),
        )
        ends = [jobs[-1] for jobs in both]
        eventually(lambda: all(job is None or job.done() for job in ends))
        answers = [str(job.result(0)) for job in ends if job is not None and job.error is None]
        assert answers == ["re: 4 re: 3 re: 2 re: 1 re: 0"]
    assert [question(body)[0] for body in bodies(chain)] == list("01234")


def _taken(manager: JobManager, entry: Any) -> Job | None:
    try:
        return manager.attach(entry)
    except BadInput:
        return None


def test_what_it_needs_is_sent_again(chain: ScriptedServer) -> None:
    """After a need that failed was sent again, the link that ended for want of it can be, too: with the
    new answer. Without that it says once more what it lacks."""
    usual = chain.ending
    chain.ending = lambda rid, _: response(rid, "failed")
    chain.polls = 10**6
    first = ask("first")
    second = ask("2 {{ first }}", first=first)
    chain.polls = 0
    assert second.exception(LIMIT)
    chain.ending = usual
    with pytest.raises(JobFailed, match="it needs the answer of the other job, which is failed"):
        second.resend().result(LIMIT)
    first.resend()
    assert second.resend().result(LIMIT) == "re: 2 re: first"
    assert [question(body) for body in bodies(chain)] == ["first", "first", "2 re: first"]


@pytest.mark.parametrize("moment", ["update_request", "claim"])
def test_restart_between_answer_and_sending(
    chain: ScriptedServer, path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A process that ends after the answer came, before or after the finished request was written down,
    has not sent it: the next one does, once."""
    reached = threading.Event()

    async def stuck(*_: Any, **__: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    chain.polls = 10**6
    first = ask("first")
    second = ask("2 {{ first }}", first=first)
    eventually(lambda: first.response_id and second.record.waits_for)
    with monkeypatch.context() as patch:
        patch.setattr(JobStore, moment, stuck)
        chain.polls = 0
        assert reached.wait(LIMIT)
        kept = app.manager.store.journal.find(second.record.key)
        assert kept is not None
        assert (kept.status, kept.draft is None) == ("waiting", moment == "claim")
        restart()
    assert len(bodies(chain)) == 1
    assert picked(app.manager, second.record.key).result(LIMIT) == "re: 2 re: first"
    assert len(bodies(chain)) == 2


def test_a_cancelled_wait_ends_in_one_kernel_only(
    chain: ScriptedServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiting link that one kernel looks after can't be ended by another that also attached it."""
    chain.polls = 10**6
    first = ask("first")
    keys = keys_of([first, ask("{{ first }}", first=first)])
    with two_kernels() as (one, other):
        entry = other.store.journal.find(keys[1])
        assert entry is not None
        mine = picked(one, keys[1])
        eventually(lambda: mine.record.waits_for)
        with pytest.raises(BadInput, match="followed by another kernel that is alive"):
            picked(other, keys[1])
        # As if it had looked a moment earlier.
        monkeypatch.setattr("bgmagic.runtime.manager.check_attachable", lambda *_: None)
        theirs = other.attach(entry)
        theirs.cancel()
        eventually(theirs.done)
        chain.polls = 0
        assert mine.result(LIMIT) == "re: re: first"
        assert theirs.status == "detached"


def test_what_it_needs_is_picked_up_again(chain: ScriptedServer, path: Path) -> None:
    """A link whose need was detached by its deadline picks that up again when it is attached, and the
    need's own variable gets its answer too."""
    chain.polls, go = 10**6, threading.Event()
    chain.enqueue("create", Script(hold=go))
    values: dict[str, Any] = {}
    app.shell = FakeShell(values)
    try:
        submit("first", poll=0.02, out="first", deadline=0.3)
    finally:
        app.shell = NoShell()
    second = ask("{{ first }}", first=values["first"])
    go.set()
    with pytest.raises(bgmagic.Detached, match="it needs first: job 'first' is no longer watched"):
        second.result(LIMIT)
    assert values["first"].status == "detached"
    chain.polls = 0
    assert picked(app.manager, second.record.key).result(LIMIT) == "re: re: first"
    assert values["first"] == "re: first"
    assert len(bodies(chain)) == 2


def test_what_it_needs_held_a_secret(chain: ScriptedServer, path: Path) -> None:
    """A link that needs one whose request the journal could not keep whole ends and says so, instead of
    waiting for ever; that one is open no more, since nobody can send it."""
    chain.polls = 10**6
    first = ask("first")
    second = ask("{{ first }} {{ key }}", first=first, key=KEY)
    keys = keys_of([first, second, ask("{{ second }}", second=second)])
    assert KEY.encode() not in path.read_bytes()
    third = picked(app.manager, keys[2])
    with pytest.raises(JobFailed, match=r"not sent: what it needs never comes: .* held a secret"):
        third.result(LIMIT)
    left = app.manager.store.journal.entries(open_only=True)
    assert [entry.key for entry in left] == keys[:1]
    assert "not sent: " in str(picked(app.manager, keys[1]).error)
    assert len(bodies(chain)) == 1


parts = st.lists(st.text(max_size=5) | st.integers(0, 3), max_size=6)


@given(parts, st.lists(st.text(max_size=9), min_size=4, max_size=4))
def test_drafts_survive_the_journal(pieces: list[Any], answers: list[str]) -> None:
    """Whatever text stands around the holes, a draft that was written down gives the same prompt."""
    made = [_waiting() for _ in answers]
    shown = "".join(
        p.replace("{", "(") if isinstance(p, str) else f"{{{{ j{p} }}}}" for p in pieces
    )
    filled = compile_template("." + shown).render({f"j{n}": job for n, job in enumerate(made)})
    partial = PartialPrompt(json.loads(json.dumps(PartialPrompt.of(filled, None).text)))
    texts = {job.record.key: Answer(text, {}) for job, text in zip(made, answers, strict=True)}
    body = {"input": [{"role": "user", "content": [{"type": "input_text", "text": filled.text}]}]}
    sent = partial.complete(Request.of(body), lambda key: texts[key])
    expected = "".join(p.replace("{", "(") if isinstance(p, str) else answers[p] for p in pieces)
    assert question(sent.body) == f".{expected}"


def _waiting() -> Job:
    from bgmagic.jobs.record import JobRecord

    record = JobRecord(request=Request("{}"), server="", submitted_at=time.time())
    control: Callable[..., Any] = None  # type: ignore[assignment]
    return Job(record, control)  # type: ignore[arg-type]
