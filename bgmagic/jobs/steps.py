"""What a model had the notebook's functions do: calls, and the rounds in which they came."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from bgmagic.api.pricing import ROUNDS
from bgmagic.api.replay import answered_calls, pair_of, previous_of, replayed_items
from bgmagic.api.request import Request
from bgmagic.api.response import Usage, objects_in, read_output, text_in
from bgmagic.values import dataclass

ASK_MARK = "__bgmagic_ask__"  # of a function whose calls need somebody's word


class CallStatus(StrEnum):
    """The words for a call's status."""

    PENDING = "pending"
    ASKING = "asking"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    DENIED = "denied"
    UNKNOWN = "unknown"  # it was running as its kernel ended


# Those in which it needs somebody's word.
OPEN_QUESTIONS = frozenset({CallStatus.ASKING, CallStatus.UNKNOWN})


@dataclass(frozen=True)
class Step:
    """One call of a function by the model.

    Attributes:
        name: the function's.
        arguments: as the model wrote them: JSON text.
        call_id: the server's id of the call.
        status: a `CallStatus`.
        output: the text that the model gets, or None as long as there is none.
        seconds: that the function took, or None where it did not run.
        round: of calls, from 1.
        tokens: that the response which made the calls of this round put out, or None.
    """

    name: str
    arguments: str
    call_id: str
    status: str = CallStatus.PENDING.value
    output: str | None = None
    seconds: float | None = None
    round: int = 1
    tokens: int | None = None

    @property
    def data(self) -> Any:
        """The arguments, parsed; None where they are no JSON."""
        try:
            return json.loads(self.arguments)
        except (ValueError, RecursionError):
            return None

    def __str__(self) -> str:
        return f"{self.name}({self.arguments}) → {self.output or self.status}"


# Of a response that made calls: what is replayed, priced and gone on from.
_KEPT = (
    "id", "status", "model", "service_tier", "usage", "output", "store", "previous_response_id",
)  # fmt: skip


@dataclass(frozen=True)
class Round:
    """One response that called functions, and its calls.

    Attributes:
        response: as much of it as is needed later.
    """

    response: Mapping[str, Any]
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, response: Mapping[str, Any], number: int) -> Round | None:
        """Read the calls of ``response``; None if it has none."""
        tokens = Usage.of(response).output
        steps = tuple(
            Step(
                text_in(call.get("name")), _arguments(call.get("arguments")),
                text_in(call.get("call_id")), round=number, tokens=tokens,
            )
            for call in calls_in(response).values()
        )  # fmt: skip
        kept = {name: response[name] for name in _KEPT if name in response}
        return cls(kept, steps) if steps else None

    @property
    def is_answered(self) -> bool:
        """Whether each of its calls has an output."""
        return all(step.output is not None for step in self.steps)

    @property
    def items(self) -> list[dict[str, Any]]:
        """What it adds to the input but for the outputs."""
        said = read_output(self.response)
        items = replayed_items(said.text, self.response)
        calls = calls_in(self.response)
        return [*items, *(_call_item(step, calls) for step in self.steps)]

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """The outputs, as input items."""
        calls = calls_in(self.response)
        return [
            {"type": "function_call_output", "call_id": step.call_id, "output": step.output or ""}
            | _besides(step, calls, "caller")
            for step in self.steps
        ]


def calls_in(response: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The calls of a response that are to be answered, by their ids, by which they are written
    down: what has the id of another is a repetition."""
    output = objects_in(response.get("output"))
    answered = answered_calls(output)
    calls: dict[str, Mapping[str, Any]] = {}
    for one in output:
        if is_call(one) and pair_of(one) not in answered:
            calls.setdefault(text_in(one.get("call_id")), one)
    return calls


def _call_item(step: Step, calls: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    # Without its id, with which it would need the reasoning before it.
    item = {"call_id": step.call_id, "name": step.name, "arguments": step.arguments}
    return {"type": "function_call", **item, **_besides(step, calls, "caller", "namespace")}


def _besides(step: Step, calls: Mapping[str, Mapping[str, Any]], *names: str) -> dict[str, Any]:
    """The other fields of a call, such as the model's program that made it, which its output has to
    name as well."""
    call = calls.get(step.call_id, {})
    return {name: call[name] for name in names if call.get(name)}


def is_call(item: Mapping[str, Any]) -> bool:
    """Whether an item of the output is a call of a function that can be answered."""
    named = text_in(item.get("name")) and text_in(item.get("call_id"))
    return item.get("type") == "function_call" and bool(named)


def _arguments(given: object) -> str:
    """The arguments as JSON text, also where a server sends an object: a function with defaults is
    never called without them."""
    return given if isinstance(given, str) else json.dumps(given or {}, ensure_ascii=False)


def _unforced(body: Mapping[str, Any]) -> dict[str, Any]:
    """The `tool_choice` of a follow-up: one that forces a call would force one in each round, and
    no model could ever say what it made of the outputs."""
    choice = body.get("tool_choice")
    if choice in (None, "auto", "none"):
        return {}
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        return {"tool_choice": choice | {"mode": "auto"}}
    return {"tool_choice": "auto"}


@dataclass(frozen=True)
class FunctionRounds:
    """The functions that a job's model may call, and the rounds of calls so far.

    Attributes:
        names: the functions', all of them.
        asks: those of which each call needs somebody's word.
        limit: how many rounds there may be.
        done: the rounds so far, the last of which may be unanswered.
        whole: whether the server is sent all of the input each time.
    """

    names: tuple[str, ...]
    asks: tuple[str, ...] = ()
    limit: int = 10
    done: tuple[Round, ...] = ()
    whole: bool = False

    @classmethod
    def of(cls, request: Request, limit: int) -> FunctionRounds | None:
        """Those of a request, before any call, for ``limit`` rounds; None without functions."""
        functions = request.functions
        asks = tuple(name for name, tool in functions.items() if tool.asks)
        return cls(tuple(functions), asks, limit) if functions else None

    @property
    def steps(self) -> tuple[Step, ...]:
        """All calls, in order."""
        return tuple(step for one in self.done for step in one.steps)

    @property
    def is_answered(self) -> bool:
        """Whether no call waits for its output."""
        return not self.done or self.done[-1].is_answered

    @property
    def is_used_up(self) -> bool:
        """Whether there may be no further round."""
        return len(self.done) >= self.limit

    def fresh(self) -> FunctionRounds:
        """The same functions, before any call."""
        return dataclasses.replace(self, done=(), whole=False)

    def with_round(self, one: Round) -> FunctionRounds:
        """With one more round."""
        return dataclasses.replace(self, done=(*self.done, one))

    def with_steps(self, changed: Iterable[Step]) -> FunctionRounds:
        """With other steps in place of those of the last round that have their ids."""
        # Plain words: people look at them.
        by_id = {one.call_id: dataclasses.replace(one, status=str(one.status)) for one in changed}
        last = self.done[-1]
        steps = tuple(by_id.get(step.call_id, step) for step in last.steps)
        new = dataclasses.replace(last, steps=steps)
        return dataclasses.replace(self, done=(*self.done[:-1], new))

    def request(self, asked: Request) -> Request:
        """The request of the round that comes now, with the outputs of the one before."""
        if not self.done:
            return asked
        body, last = self.body(asked), self.done[-1]
        if body.get("conversation"):  # it has the calls, and goes with no response's id
            return asked.with_body(body | {"input": last.outputs})
        # The calls are answered by what comes after it.
        bare = {**last.response, "output": []}
        known = len(body["input"]) - len(last.outputs)
        return asked.with_body(body, None if self.whole else previous_of(bare, known))

    def body(self, asked: Request) -> dict[str, Any]:
        """The body of that request, with all of its input."""
        body = asked.body
        if not self.done:
            return body
        rounds = [item for one in self.done for item in (*one.items, *one.outputs)]
        return body | _unforced(body) | {"input": [*body["input"], *rounds]}

    @property
    def text(self) -> str:
        """All of it as JSON text."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def read(cls, text: str | None) -> FunctionRounds | None:
        """Read the JSON text that the journal has; None if it is anything else."""
        if text is None:  # nearly always
            return None
        try:
            found = json.loads(text)
            done = tuple(
                Round(one["response"], tuple(Step(**step) for step in one["steps"]))
                for one in found["done"]
            )
            names, asks = tuple(found["names"]), tuple(found["asks"])
            return cls(names, asks, int(found["limit"]), done, bool(found["whole"]))
        except (ValueError, TypeError, KeyError):
            return None


def with_all_usage(rounds: FunctionRounds | None, response: Mapping[str, Any]) -> Mapping[str, Any]:
    """``response`` with the tokens of all rounds added up, as they are paid for; {} stands for one
    that is not there yet."""
    if rounds is None or not rounds.done:
        return response
    last = rounds.done[-1].response
    about = response or {name: last.get(name) for name in ("model", "service_tier")}
    ended = [one.response for one in rounds.done]
    # The response that was polled last may be of a round, before it had ended.
    is_new = response and response.get("id") not in [one.get("id") for one in ended]
    counted = [one.get("usage") for one in [*ended, *([response] if is_new else [])]]
    found = [usage for usage in counted if isinstance(usage, dict)]
    return {**about, "usage": _sum(found), ROUNDS: counted} if found else about


def _sum(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            known = total.get(name)
            if isinstance(value, dict):
                total[name] = _sum([known if isinstance(known, dict) else {}, value])
            elif isinstance(value, int) and not isinstance(value, bool):
                total[name] = value + (known if isinstance(known, int) else 0)
            else:
                total[name] = value
    return total
