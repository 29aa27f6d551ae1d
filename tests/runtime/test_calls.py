"""Functions of the notebook as tools: rounds of calls on the scripted server, and what outlives them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest

import bgmagic
from bgmagic.display.card import Card
from bgmagic.display.listing import snapshot, table_row
from bgmagic.display.static_html import footer_text
from bgmagic.errors import BadInput
from bgmagic.jobs.export import export_line, figures_of, job_row
from bgmagic.jobs.job import Answer
from bgmagic.jobs.outcome import Detached, JobCancelled, JobFailed, JobUnknown, NoAnswer
from bgmagic.jobs.steps import FunctionRounds, Step
from bgmagic.public import submit
from bgmagic.runtime import runner
from bgmagic.runtime.calls import AT_ONCE
from bgmagic.submission import costs
from bgmagic.submission.app import NoShell, app
from bgmagic.submission.costs import cost_of
from bgmagic.tools.functions import FunctionTool, function_entry, read_arguments
from tests.api.test_request import CREATE
from tests.conftest import KEY
from tests.jobs.test_job import LIMIT, eventually
from tests.runtime.test_dependencies import bodies, restart
from tests.support.scripted import Script, ScriptedServer, response
from tests.support.shell import FakeShell

Calls = list[tuple[str, Any]]


def calling(rid: str, calls: Calls, **more: Any) -> dict[str, Any]:
    """A response that calls functions, each by its name and arguments."""
    items = [
        {
            "type": "function_call", "id": f"fc_{rid}_{n}", "call_id": f"call_{rid}_{n}", "name": name,
            "arguments": given if isinstance(given, str) else json.dumps(given), "status": "completed",
        }
        for n, (name, given) in enumerate(calls)
    ]  # fmt: skip
    usage = {
        "input_tokens": 10,
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
    }
    reasoning = {"type": "reasoning", "id": f"rs_{rid}", "summary": []}
    return response(rid, "completed", usage=usage, **more) | {"output": [reasoning, *items]}


@pytest.fixture
def rounds(
    pointed: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """Scripts the calls of each response; after the last of them one with the text "done"."""
    monkeypatch.setenv("BGMAGIC_JOURNAL", str(tmp_path / "journal.sqlite3"))
    monkeypatch.setattr("bgmagic.runtime.calls.WRITE_RETRY", 0.05)

    def script(*of_responses: Calls, by_id: bool = True) -> None:
        left = iter(of_responses)

        def ending(rid: str, body: Any) -> dict[str, Any]:
            calls = next(left, None)
            told = {"previous_response_id": body.get("previous_response_id")} if by_id else {}
            if calls is not None:
                return calling(rid, calls, **told)
            usage = {"input_tokens": 30, "output_tokens": 4}
            return response(rid, "completed", "done", usage=usage, **told)

        pointed.ending = ending

    yield script
    app.shell = NoShell()
    restart()


def outputs(body: Any) -> list[str]:
    return [one["output"] for one in body["input"] if one.get("type") == "function_call_output"]


def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    return a + b


def test_rounds_lead_to_an_answer(
    rounds: Callable[..., None], pointed: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model calls is run and its output sent, round after round, until there is a message;
    the steps, the tokens of all rounds and the conversation tell of them."""
    own = {"gpt-5.2-true": {"input": 1e6, "output": 1e7}}
    monkeypatch.setenv("BGMAGIC_PRICES", json.dumps(own))
    rounds([("add", {"a": 1, "b": 2}), ("add", {"a": 5, "b": None})], [("add", {"a": 3, "b": 6})])
    job = submit("Add.", poll=0.02, tool=[add, "web_search"], instructions="Be brief.")
    answer = job.result(LIMIT)
    assert answer == "done"
    assert [(s.name, s.data, s.output, s.round) for s in answer.steps] == [
        ("add", {"a": 1, "b": 2}, "3", 1),
        ("add", {"a": 5, "b": None}, "6", 1),
        ("add", {"a": 3, "b": 6}, "9", 2),
    ]
    assert all(s.seconds is not None and s.tokens == 5 for s in answer.steps)
    first, second, third = bodies(pointed)
    assert [tool["type"] for tool in first["tools"]] == ["function", "web_search"]
    assert (second["previous_response_id"], third["previous_response_id"]) == ("resp_1", "resp_2")
    assert (outputs(second), outputs(third)) == (["3", "6"], ["9"])
    assert len(second["input"]) == 2
    for body in (first, second, third):
        CREATE.validate(body)
        assert (body["instructions"], len(body["tools"])) == ("Be brief.", 2)
    whole = answer.conversation
    assert [item.get("type") for item in whole] == [
        None,
        *["function_call"] * 2,
        *["function_call_output"] * 2,
        "function_call",
        "function_call_output",
        "message",
    ]
    CREATE.validate({**first, "input": list(whole)})
    entry = app.manager.store.find(job.record.key)
    assert entry is not None
    assert json.loads(entry.billing or "")["response"]["usage"]["input_tokens"] == 50
    assert (entry.output_tokens, entry.fingerprint) == (14, job.record.fingerprint)
    # All places tell of the tokens of all rounds, and what they cost together.
    cost, row, line, figures = cost_of(entry), job_row(job), export_line(job), figures_of(job)
    assert cost is not None
    assert (cost.tokens_in, cost.tokens_out, cost.charge.price) == (50, 14, 190.0)
    assert (row["tokens_in"], row["tokens_out"], row["price"]) == (50, 14, 190.0)
    assert (line["tokens_in"], line["tokens_out"], line["price"]) == (50, 14, 190.0)
    assert (figures.tokens_in, figures.tokens_out, figures.price) == (50, 14, job.price)
    assert "50 tokens in, 14 out" in footer_text(job)
    assert table_row(job).tokens == 14


def test_servers_without_ids_get_all_of_it(
    rounds: Callable[..., None], pointed: ScriptedServer
) -> None:
    """A server that does not go on by ids, one that forgot, and one whose ids lead nowhere get calls and
    outputs with all turns; reasoning that only the server could look up stays out."""
    rounds([("add", {"a": 1, "b": 2})], by_id=False)
    submit("Add.", poll=0.02, tool=add).result(LIMIT)
    rounds([("add", {"a": 1, "b": 2})])
    refused = {"error": {"message": "Previous response with id 'resp_3' not found."}}
    pointed.enqueue("create", Script(), Script(status=400, json=refused))
    submit("Add.", poll=0.02, tool=add).result(LIMIT)
    rounds([("add", {"a": 1, "b": 2})])
    pointed.new_id = lambda number: f"litellm_poll_{number}"  # says null, takes ids, reads none
    submit("Add.", poll=0.02, tool=add).result(LIMIT)
    sent = bodies(pointed)
    previous = [None, None, None, "resp_3", None, None, None]
    assert [body.get("previous_response_id") for body in sent] == previous
    for body in (sent[1], sent[4], sent[6]):
        assert [item.get("type") for item in body["input"]] == [
            None,
            "function_call",
            "function_call_output",
        ]
        CREATE.validate(body)


def test_a_conversation_that_the_server_keeps(
    rounds: Callable[..., None], pointed: ScriptedServer
) -> None:
    """With the API's `conversation` outputs go alone: it has the calls already, and takes no response's id
    beside it."""
    rounds([("add", {"a": 1, "b": 2})], [("add", {"a": 3, "b": 4})])
    answer = submit("Add.", poll=0.02, tool=add, param={"conversation": "conv_1"}).result(LIMIT)
    _, *follow_ups = bodies(pointed)
    for body, output in zip(follow_ups, ["3", "7"], strict=True):
        assert (body["conversation"], "previous_response_id" in body) == ("conv_1", False)
        assert (outputs(body), len(body["input"])) == ([output], 1)
    assert len(answer.conversation) == 6


def test_all_kinds_of_functions_run_at_once(
    rounds: Callable[..., None], pointed: ScriptedServer
) -> None:
    """Twenty calls of one round run at once, sync ones on threads and async ones on a loop, and each
    output goes to its call."""
    begun: list[int] = []

    def slow(n: int) -> str:
        begun.append(n)
        eventually(lambda: len(begun) == 20)
        return f"slow {n}"

    async def later(n: int) -> dict[str, int]:
        begun.append(n)
        async with asyncio.timeout(LIMIT):
            while len(begun) < 20:
                await asyncio.sleep(0.01)
        return {"later": n}

    rounds([("slow", {"n": n}) for n in range(10)] + [("later", {"n": n}) for n in range(10)])
    answer = submit("Go.", poll=0.02, tool=[slow, later]).result(LIMIT)
    assert [s.output for s in answer.steps[:10]] == [f"slow {n}" for n in range(10)]
    assert [json.loads(s.output or "") for s in answer.steps[10:]] == [
        {"later": n} for n in range(10)
    ]
    assert outputs(bodies(pointed)[1]) == [s.output for s in answer.steps]


class Mute(Exception):
    """An error, and an object, that can't be told."""

    def __str__(self) -> str:
        raise SystemExit(4)

    __repr__ = __str__


def bad(kind: str) -> Any:
    """Go wrong in some way."""
    if kind == "mute":
        raise Mute
    if kind == "half error":
        raise OSError("no file \udcff.txt")
    if kind == "raise":
        raise LookupError("no such city")
    if kind == "exit":
        raise SystemExit(3)
    if kind == "secret":
        return f"the key is {KEY}"
    given = {"large": "x" * 10_000_000, "object": object(), "half": "\ud800", "none": None}
    return (given | {"unreadable": Mute()})[kind]


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("bad", {"kind": "raise"}, r"Error: LookupError: no such city"),
        ("bad", {"kind": "exit"}, r"Error: SystemExit: 3"),
        ("bad", {"kind": "large"}, r"Error: it gave 10,000,000 characters, and 1,000,000 can"),
        ("bad", {"kind": "object"}, r"Error: it gave .*object.*, which is no text"),
        ("bad", {"kind": "half"}, r"Error: it gave .* half a character"),
        ("bad", {"kind": "none"}, r"null"),
        ("bad", {"kind": "mute"}, r"Error: Mute$"),
        ("bad", {"kind": "half error"}, r"Error: OSError: no file \.txt"),
        ("bad", {"kind": "unreadable"}, r"Error: what it gave can't be read: SystemExit: 4"),
        ("bad", {"kind": "secret"}, r"the key is (?!sk-)"),
        ("bad", {"kind": 3}, r"Error: the arguments do not fit: kind: .*string"),
        ("bad", {}, r"Error: the arguments do not fit: kind: Field required"),
        ("bad", {"kind": "none", "more": 1}, r"Error: the arguments do not fit: more: "),
        ("bad", "{", r"Error: the arguments do not fit: they are not JSON"),
        ("bad", "[1]", r"Error: the arguments do not fit: they must be a JSON object"),
        ("eval", {"code": "1"}, r"Error: there is no such function, only bad"),
    ],
)
def test_what_goes_wrong_is_told_the_model(
    rounds: Callable[..., None], pointed: ScriptedServer, name: str, arguments: Any, told: str
) -> None:
    """A function that raises, gives what can't be sent, or gets what does not fit, and a call of one
    that the cell did not name, become a line for the model; nothing else runs."""
    import re

    rounds([(name, arguments)])
    answer = submit("Go.", poll=0.02, tool=bad).result(LIMIT)
    (step,) = answer.steps
    assert re.match(told, step.output or ""), step.output
    assert outputs(bodies(pointed)[1]) == [step.output]
    assert (step.status == "failed") == (step.output or "").startswith("Error")
    assert KEY not in (step.output or "")


def test_many_calls_run_some_at_a_time(
    rounds: Callable[..., None], pointed: ScriptedServer
) -> None:
    """Of more calls than a process should have threads for, so many run at once and the others after."""
    lock, running, most = threading.Lock(), [0], [0]
    full = threading.Event()

    def number(n: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            if running[0] == AT_ONCE:
                full.set()
        assert full.wait(LIMIT)
        with lock:
            running[0] -= 1
        return n

    count = 2 * AT_ONCE + 5
    rounds([("number", {"n": n}) for n in range(count)])
    submit("Count.", poll=0.02, tool=number).result(LIMIT)
    assert outputs(bodies(pointed)[-1]) == [str(n) for n in range(count)]
    assert most[0] == AT_ONCE


def test_a_call_is_run_once(rounds: Callable[..., None], pointed: ScriptedServer) -> None:
    """Calls of one round that have the same id are one: it runs once and has one output; what the
    server has answered itself is not run. A call and its output say which program of the model made it.
    """
    ran: list[int] = []

    def once(n: int) -> int:
        ran.append(n)
        return n

    rounds([("once", {"n": 1}), ("once", {"n": 2}), ("once", {"n": 3})])
    scripted = pointed.ending

    def ending(rid: str, body: Any) -> dict[str, Any]:
        told = scripted(rid, body)
        for item in told["output"]:
            if item["type"] == "function_call":
                item |= {"caller": made_by, "namespace": "mine"}
            if item.get("arguments") in (json.dumps({"n": 1}), json.dumps({"n": 2})):
                item["call_id"] = "call_same"
        if not outputs(body):
            done = {"type": "function_call", "call_id": "call_x", "name": "once", "arguments": "{}"}
            out = {"type": "function_call_output", "call_id": "call_x", "output": "9"}
            told["output"] += [done, out]
        return told

    pointed.ending, made_by = ending, {"type": "program", "caller_id": "call_0"}
    answer = submit("Go.", poll=0.02, tool=once).result(LIMIT)
    assert sorted(ran) == [1, 3]
    sent = bodies(pointed)[1]
    assert ([s.output for s in answer.steps], outputs(sent)) == (["1", "3"],) * 2
    assert [item["caller"] for item in sent["input"]] == [made_by] * 2
    calls = [item for item in answer.conversation if item.get("type") == "function_call"]
    assert [(item["caller"], item["namespace"]) for item in calls] == [(made_by, "mine")] * 2
    CREATE.validate({**sent, "input": list(answer.conversation)})


def test_generators_and_no_arguments_at_all(
    rounds: Callable[..., None], pointed: ScriptedServer
) -> None:
    """What a generator gives, async or not, is a list for the model; `null` is no arguments, as nothing is."""

    def sync() -> Iterator[int]:
        yield from (1, 2)

    async def later() -> AsyncIterator[int]:
        for n in (1, 2):
            yield n

    def none() -> list[int]:
        return []

    rounds([("sync", "null"), ("later", "null"), ("sync", ""), ("none", "")])
    answer = submit("Go.", poll=0.02, tool=[sync, later, none]).result(LIMIT)
    assert [step.output for step in answer.steps] == [*["- 1\n- 2"] * 3, "[]"]


def test_arguments_that_are_an_object(rounds: Callable[..., None], pointed: ScriptedServer) -> None:
    """A server that sends the arguments as an object, no JSON text of it, has them used all the same."""

    def spread(a: int = 1, b: int = 2) -> int:
        return a * 10 + b

    rounds([("spread", {"a": 7, "b": 8})])
    scripted = pointed.ending

    def ending(rid: str, body: Any) -> dict[str, Any]:
        told = scripted(rid, body)
        for item in told["output"]:
            if "arguments" in item:
                item["arguments"] = json.loads(item["arguments"])
        return told

    pointed.ending = ending
    answer = submit("Go.", poll=0.02, tool=spread).result(LIMIT)
    assert [s.output for s in answer.steps] == ["78"]


@pytest.mark.parametrize(
    ("choice", "then"),
    [
        ("required", "auto"),
        ({"type": "function", "name": "add"}, "auto"),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "add"}]},
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "add"}]},
        ),
        ("none", "none"),
    ],
)  # fmt: skip
def test_a_forced_call_is_forced_once(
    rounds: Callable[..., None], pointed: ScriptedServer, choice: Any, then: Any
) -> None:
    """A `tool_choice` that forces a call does so in the first request alone: in each it would never let
    the model say what it made of the outputs."""
    rounds([("add", {"a": 1, "b": 2})])
    job = submit("Add.", poll=0.02, tool=add, param={"tool_choice": choice})
    assert job.result(LIMIT) == "done"
    first, second = bodies(pointed)
    assert (first["tool_choice"], second["tool_choice"]) == (choice, then)
    CREATE.validate(second)


def test_rounds_are_bounded(rounds: Callable[..., None], pointed: ScriptedServer) -> None:
    """After --max-rounds the job ends without an answer and says so; its steps stay."""
    rounds(*[[("add", {"a": 1, "b": 1})]] * 5)
    job = submit("Go.", poll=0.02, tool=add, max_rounds=2)
    error = job.exception(LIMIT)
    assert isinstance(error, NoAnswer)
    assert "after 2 rounds of calls the model still asks for more: --max-rounds" in str(error)
    assert (len(job.steps), len(bodies(pointed))) == (2, 3)


@pytest.mark.parametrize(
    ("script", "kind", "posts"),
    [
        (Script(status=400, json={"error": {"message": "no"}}), JobFailed, 2),
        (Script(reset="after"), JobUnknown, 2),
        (Script(status=429, headers={"retry-after": "0.05"}, json={}), None, 3),
    ],
)
def test_follow_ups_are_sent_as_any_request(
    rounds: Callable[..., None], pointed: ScriptedServer, script: Script, kind: Any, posts: int
) -> None:
    """A follow-up that is refused ends the job, one of which nobody knows whether it was accepted is
    not sent again, and one that comes too soon waits; the function ran once in any case."""
    ran: list[int] = []

    def once(n: int) -> int:
        ran.append(n)
        return n

    rounds([("once", {"n": 1})])
    pointed.enqueue("create", Script(), script)
    job = submit("Go.", poll=0.02, tool=once)
    error = job.exception(LIMIT)
    assert (type(error), len(bodies(pointed)), ran) == (kind or type(None), posts, [1])
    assert job.steps[0].output == "1"


def test_cancelling_does_not_wait_for_a_function(
    rounds: Callable[..., None], pointed: ScriptedServer
) -> None:
    """A function that hangs keeps nobody from cancelling the job, and nothing is sent after that."""
    go_on = threading.Event()

    def hang() -> str:
        go_on.wait(LIMIT)
        return "late"

    rounds([("hang", {})])
    job = submit("Go.", poll=0.02, tool=hang)
    eventually(lambda: job.record.status_text == "waiting for hang()")
    job.cancel()
    assert isinstance(job.exception(LIMIT), JobCancelled)
    assert "while its functions ran" in str(job.error)
    go_on.set()
    assert len(bodies(pointed)) == 1
    entry = app.manager.store.find(job.record.key)
    cost = None if entry is None else cost_of(entry)
    assert cost is not None
    assert (cost.tokens_in, cost.tokens_out) == (10, 5)
    assert (figures_of(job).tokens_in, job_row(job)["tokens_out"]) == (10, 5)


def test_a_budget_bounds_the_rounds(
    rounds: Callable[..., None], pointed: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round counts against the budget anew, with what those before have cost: the one that could
    go over it is held back with the line of a first request, in other kernels too, which count them
    while it waits; the receipt tells of an open job what it has cost so far."""
    monkeypatch.setattr(runner, "BUDGET_RETRY", 0.05)
    monkeypatch.setattr(costs, "REREAD", 0.0)
    prices = {
        "gpt-own": {"input": 0.0, "output": 200_000.0}
    }  # a dollar for the 5 tokens of a round
    monkeypatch.setenv("BGMAGIC_PRICES", json.dumps(prices))
    monkeypatch.setenv("BGMAGIC_BUDGET", "2.5/day")
    rounds(*[[("add", {"a": 1, "b": 1})]] * 5)
    job = submit("Go.", poll=0.02, tool=add, model="gpt-own", max_output_tokens=5)
    line = "this can cost $1.00, and the budget of $2.50/day has $2.00 spent"
    eventually(lambda: job.record.trouble == f"not sent: {line}")
    assert (len(bodies(pointed)), len(job.steps)) == (2, 2)
    (cost,) = costs.costs_since(app.manager.store, 0.0)
    assert (cost.ended_at, cost.most, cost.charge.price) == (None, 0.0, 2.0)
    assert costs.receipt([cost])[-1].cells[6] == "$2.00"
    elsewhere = costs.BudgetGate(app.manager.store, lambda: costs.Budget(2.5, "day"))
    with pytest.raises(BadInput, match=line.replace("$", r"\$")):
        elsewhere.check([job.request], job.record.server)
    monkeypatch.setenv("BGMAGIC_BUDGET", "3.5/day")
    eventually(lambda: len(bodies(pointed)) == 3)
    job.cancel()
    assert isinstance(job.exception(LIMIT), JobCancelled)


def test_asking_waits_for_a_word(rounds: Callable[..., None], pointed: ScriptedServer) -> None:
    """With --ask, and for functions that are marked, a call waits until it is allowed; one that is
    denied does not run, and the model is told."""
    ran: list[str] = []

    @bgmagic.tool(ask=True)
    def delete(path: str) -> str:
        ran.append(path)
        return "gone"

    app.shell = FakeShell({})
    rounds([("delete", {"path": "a"}), ("add", {"a": 1, "b": 1}), ("delete", {"path": "b"})])
    job = submit("Go.", poll=0.02, tool=[delete, add])
    eventually(lambda: [s.status for s in job.steps] == ["asking", "done", "asking"])
    waits = "waiting for Allow or Deny for delete(), delete()"
    eventually(lambda: job.record.status_text == waits)
    first, _, last = job.steps
    job.deny(first.call_id)
    job.allow(last.call_id)
    answer = job.result(LIMIT)
    assert [s.status for s in answer.steps] == ["denied", "done", "done"]
    assert (ran, answer.steps[0].output) == (["b"], "Error: the user did not allow this call")
    app.shell = NoShell()
    rounds([("delete", {"path": "c"})], [("add", {"a": 1, "b": 1})])
    alone = submit("Go.", poll=0.02, tool=[delete, add], ask=True).result(LIMIT)
    assert [s.status for s in alone.steps] == ["denied", "denied"]
    assert ran == ["b"]


def test_a_late_click_is_for_its_own_round(
    rounds: Callable[..., None], pointed: ScriptedServer
) -> None:
    """A second click on Allow that comes in the next round allows nothing there, also where the server
    gives a call the id of the one before."""
    app.shell = FakeShell({})
    rounds([("add", {"a": 1})], [("add", {"a": 2})])
    scripted = pointed.ending

    def ending(rid: str, body: Any) -> dict[str, Any]:
        told = scripted(rid, body)
        for item in told["output"]:
            item |= {"call_id": "call_0"} if item["type"] == "function_call" else {}
        return told

    pointed.ending = ending
    job = submit("Go.", poll=0.02, tool=[add], ask=True)
    card = Card(job)
    statuses: list[list[str]] = []
    job.add_listener(lambda one: statuses.append([step.status for step in one.steps]))
    eventually(lambda: [s.status for s in job.steps] == ["asking"])
    (first,) = (call["key"] for call in snapshot(job)["calls"])
    card.click("allow", first)
    eventually(lambda: [s.status for s in job.steps] == ["done", "asking"])
    second = snapshot(job)["calls"][1]["key"]
    card.click("allow", first)
    card.click("deny", second)
    card.click("allow", second)  # too late: it is denied
    assert job.result(LIMIT) == "done"
    assert [s.status for s in job.steps] == ["done", "denied"]
    assert ["done", "running"] not in statuses


def test_it_goes_on_in_the_next_process(
    rounds: Callable[..., None], pointed: ScriptedServer
) -> None:
    """After a restart a job whose functions are defined again goes on, without running again what has
    its output; a function that was running is not run by itself; without them it says which are
    missing."""
    ran: list[str] = []
    hold = threading.Event()

    def quick(n: int) -> str:
        ran.append(f"quick {n}")
        return f"q{n}"

    def slow(n: int) -> str:
        ran.append(f"slow {n}")
        hold.wait(LIMIT)
        return f"s{n}"

    app.shell = FakeShell({})
    rounds([("quick", {"n": 1}), ("slow", {"n": 2})])
    job = submit("Go.", poll=0.02, out="work", tool=[quick, slow])
    eventually(lambda: [s.status for s in job.steps] == ["done", "running"])
    eventually(lambda: len(ran) == 2)  # only once the file says so, too
    restart()
    hold.set()
    (entry,) = [e for e in app.manager.store.listed("") if e.name == "work"]
    whole = app.manager.store.find(entry.key)
    assert whole is not None
    bare = app.manager.attach(whole)
    assert isinstance(bare.exception(LIMIT), Detached)
    assert "not defined here as they were: quick(), slow(). Run their cells" in str(bare.error)
    app.shell = FakeShell({"quick": quick, "slow": slow})
    eventually(lambda: app.manager.store.find(entry.key).owner is None)  # type: ignore[union-attr]
    again = app.manager.attach(app.manager.store.find(entry.key))  # type: ignore[arg-type]
    eventually(lambda: [s.status for s in again.steps] == ["done", "unknown"])
    assert ran == ["quick 1", "slow 2"]
    again.allow()
    assert again.result(LIMIT) == "done"
    assert ran == ["quick 1", "slow 2", "slow 2"]
    assert outputs(bodies(pointed)[1]) == ["q1", "s2"]


def test_a_word_that_comes_before_its_job_is_followed(rounds: Callable[..., None]) -> None:
    """What is allowed the moment after a job was attached counts, though its thread had no time for the job yet."""
    app.shell = FakeShell({"add": add})
    rounds([("add", {"a": 1, "b": 2})])
    job = submit("Go.", poll=0.02, out="work", tool=add, ask=True)
    eventually(lambda: job.steps and job.steps[0].status == "asking")
    restart()
    (entry,) = [e for e in app.manager.store.listed("") if e.name == "work"]
    whole = app.manager.store.find(entry.key)
    assert whole is not None
    hold = threading.Event()
    submit("Go.", poll=0.02).result(LIMIT)  # the thread of this manager runs
    app.manager._loop.call(lambda: hold.wait(LIMIT))
    again = app.manager.attach(whole)
    again.allow()
    hold.set()
    assert again.result(LIMIT) == "done"
    assert again.steps[0].output == "3"


def test_a_changed_function_is_another(rounds: Callable[..., None]) -> None:
    """A function of that name with other parameters is not called in its place after a restart."""
    hold = threading.Event()

    def look(city: str) -> str:
        hold.wait(LIMIT)
        return city

    def other(town: str) -> str:
        return town

    other.__name__ = "look"
    app.shell = FakeShell({})
    rounds([("look", {"city": "Bern"})])
    job = submit("Go.", poll=0.02, out="work", tool=look)
    eventually(lambda: job.steps and job.steps[0].status == "running")
    restart()
    hold.set()
    app.shell = FakeShell({"look": other})
    (entry,) = [e for e in app.manager.store.listed("") if e.name == "work"]
    bare = app.manager.attach(app.manager.store.find(entry.key))  # type: ignore[arg-type]
    assert isinstance(bare.exception(LIMIT), Detached)


def test_answers_keep_their_steps(rounds: Callable[..., None], pointed: ScriptedServer) -> None:
    """A pickled answer has its steps and its conversation; a conversation goes on from it by its id,
    functions and all; a cell run again takes it from the journal."""
    import pickle

    rounds([("add", {"a": 1, "b": 2})])
    app.shell = FakeShell({})
    answer = submit("Add.", poll=0.02, out="sum", tool=add).result(LIMIT)
    kept: Answer = pickle.loads(pickle.dumps(answer))
    assert (kept.steps, kept.conversation) == (answer.steps, list(answer.conversation))
    submit("More.", poll=0.02, continue_=answer, tool=add).result(LIMIT)
    assert bodies(pointed)[-1]["previous_response_id"] == answer.response_id
    posts = len(bodies(pointed))
    again = submit("Add.", poll=0.02, out="sum", tool=add, reuse=True).result(LIMIT)
    assert (again, again.steps, len(bodies(pointed))) == ("done", answer.steps, posts)
    rounds([("add", {"a": 1, "b": 2})])
    resent = answer.job.resend()  # type: ignore[union-attr]
    assert resent.result(LIMIT).steps[0].output == "3"


def test_a_sweep_calls_functions_too(rounds: Callable[..., None], pointed: ScriptedServer) -> None:
    """Each job of a group has its own rounds; asking, which needs a card for each, is one line."""
    pointed.ending = lambda rid, body: (
        response(rid, "completed", "done")
        if outputs(body)
        else calling(rid, [("add", {"a": len(rid), "b": 1})])
    )
    group = bgmagic.map("Add {{ item }}", ["1", "2", "3"], tool=add, poll=0.02)
    assert group.result(LIMIT) == ["done"] * 3
    assert all(job.steps[0].output for job in group.jobs)
    with pytest.raises(BadInput, match="it asks before each call, which only a single job's card"):
        bgmagic.map("Add {{ item }}", ["1"], tool=add, ask=True)


# What a function becomes.


class Point(pydantic.BaseModel):
    x: float
    y: float


def many(
    city: Annotated[str, pydantic.Field(description="Its name.")],
    /,
    points: list[Point],
    unit: Literal["C", "F"] = "C",
    *,
    _hidden: int | None = 3,
    schema: bool = False,
) -> str:
    """Look something up.

    In two paragraphs.
    """
    return f"{city} {points} {unit} {_hidden} {schema}"


def test_a_function_is_a_strict_tool() -> None:
    """Name, docstring and signature become a strict function tool: models, choices and descriptions
    as --schema has them; what has a default may be null."""
    entry = function_entry(many)
    CREATE.validate({"model": "m", "input": "x", "tools": [entry]})
    assert (entry["name"], entry["strict"]) == ("many", True)
    assert entry["description"] == "Look something up.\n\nIn two paragraphs."
    parameters = entry["parameters"]
    names = ["city", "points", "unit", "_hidden", "schema"]
    assert parameters["required"] == list(parameters["properties"]) == names
    assert parameters["additionalProperties"] is False
    assert parameters["properties"]["city"]["description"] == "Its name."
    assert {"type": "null"} in parameters["properties"]["unit"]["anyOf"]
    given = {"city": "Bern", "points": [{"x": 1, "y": 2}], "unit": None, "schema": True}
    positional, named = read_arguments(many, json.dumps(given))
    assert many(*positional, **named) == "Bern [Point(x=1.0, y=2.0)] C 3 True"
    assert function_entry(lambda_with_name())["parameters"]["properties"] == {}


NO_TAGS: list[str] = pydantic.Field(default_factory=list)


def with_fields(
    first: int = 1,
    second: Annotated[int, "The second."] = 2,
    /,
    *,
    size: int = pydantic.Field(3, gt=1, description="How large."),
    name: str = pydantic.Field(description="Its name."),
    tags: list[str] = NO_TAGS,
) -> str:
    return f"{first} {second} {size} {name} {tags}"


def test_fields_say_what_parameters_are() -> None:
    """A `Field` in place of a default, as other libraries have it, gives the parameter's description,
    bounds and default; text in `Annotated` is a description; what is left open keeps its place."""
    about = function_entry(with_fields)["parameters"]["properties"]
    assert about["name"] == {"title": "Name", "type": "string", "description": "Its name."}
    assert about["second"]["anyOf"][0] == {"type": "integer", "description": "The second."}
    size = {"type": "integer", "description": "How large.", "exclusiveMinimum": 1}
    assert about["size"]["anyOf"] == [size, {"type": "null"}]
    left_open = {"first": None, "size": None, "tags": None}
    told = json.dumps({"second": 5, "name": "x", **left_open})
    positional, named = read_arguments(with_fields, told)
    assert with_fields(*positional, **named) == "1 5 3 x []"
    for wrong in ({"name": None}, {"name": "x", "size": 1}):
        with pytest.raises(ValueError, match="Input should be"):
            read_arguments(with_fields, json.dumps(wrong))


class Shelf:
    def find(self, title: str, /, count: int = 1) -> str:
        """Find a book."""
        return f"{title} {count}"


def test_a_method_can_be_marked() -> None:
    """What takes no mark, as a method of an object, is marked by a function that calls it; what is no
    function is one line."""
    asks = bgmagic.tool(ask=True)(Shelf().find)
    made = FunctionTool.of(asks)
    assert (made.asks, made.name, made.entry["description"]) == (True, "find", "Find a book.")
    assert made.call('{"title": "Emma", "count": null}').result(LIMIT).text == "Emma 1"
    for wrong in (5, Shelf):
        with pytest.raises(BadInput, match=r"bgmagic\.tool marks a function, not a"):
            bgmagic.tool(wrong)  # type: ignore[type-var]


def lambda_with_name() -> Any:
    def nothing() -> None:
        """Do nothing."""

    return nothing


def untyped(a) -> str:  # type: ignore[no-untyped-def]
    return str(a)


def starred(*a: int) -> int:
    return sum(a)


def odd(a: threading.Lock) -> int:  # type: ignore[valid-type]
    return 1


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda a: a, "needs a name of up to 64 letters"),
        (untyped, "its parameter a needs a type, as in a: str"),
        (starred, r"a model can't fill \*a; give it a parameter for each argument"),
        (odd, "Pydantic makes no schema of its parameters"),
        ([add, add], "two functions are called add"),
        (Point, "or a function of yours, as \\$NAME"),
        ({"type": "function", "name": "f"}, "give a function of yours as --tool"),
    ],
)
def test_what_is_no_tool_is_one_line(pointed: ScriptedServer, function: Any, told: str) -> None:
    """A function that can't be a tool is one line, and nothing is sent."""
    with pytest.raises(BadInput, match=told) as caught:
        submit("Go.", tool=function)
    assert "\n" not in str(caught.value)
    assert not pointed.seen


def test_rounds_are_read_back_as_they_were() -> None:
    """What the journal has of rounds is read as it was written; anything else is none."""
    step = Step("f", "{}", "c", output="x")
    from bgmagic.jobs.steps import Round

    made = FunctionRounds(("f",), ("f",), 3, (Round({"id": "r"}, (step,)),), True)
    assert FunctionRounds.read(made.text) == made
    for broken in (None, "", "[]", "{}", "null", '{"names": 3}'):
        assert FunctionRounds.read(broken) is None
