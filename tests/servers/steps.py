"""The steps that every server is put through, each in real kernels and by public names alone."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers.serving import Running
from tests.support.kernels import Kernel, kernel

LIMIT = 90.0  # seconds that a short job may take on two busy cores
LOST = 90.0  # seconds after which a response that the server does not know must have ended
BACK = 90.0  # the same for one that the server forgot, counted from when it answers again

SHORT = "Answer with one word: what colour is the sky?"
MIDDLING = "Write five sentences about the sea."
# With these and at temperature 0 the small model goes on until its context is full. No two steps
# send the same, or the counts would take one for the other's second time.
LONG = (
    "List one hundred animals, numbered, one a line.",
    "Write a very long story about a house, with a hundred chapters.",
    "Write a very long story about a ship, with a hundred chapters.",
    f"Continue this list to 500: {', '.join(map(str, range(1, 21)))},",
)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "legs": {"type": "integer"}},
    "required": ["name", "legs"],
    "additionalProperties": False,
}
# Turns as the API's documentation has them: parts, without ids.
TURNS: list[dict[str, object]] = [
    {"role": "user", "content": [{"type": "input_text", "text": "My name is Ada."}]},
    {"role": "assistant", "content": [{"type": "output_text", "text": "Hello Ada."}]},
]

# With it the small model calls `add`: left to itself it would rather talk.
FORCED = (
    "%%bgresponse -o sum --tool $add --max-rounds 3 --param tool_choice=required "
    "--param temperature=0 --max-output-tokens 200\nAdd 2 and 3. Begin with <tool_call>."
)

# What a round of calls adds to a conversation.
CALL = {"type": "function_call", "call_id": "1", "name": "add", "arguments": '{"a": 2, "b": 3}'}
ROUND: list[dict[str, object]] = [
    {"role": "user", "content": "Add 2 and 3."},
    CALL,
    {"type": "function_call_output", "call_id": "1", "output": "5"},
]


class Fails(Exception):
    """What the user meets is not what is promised; says what it is, in a few words."""


@dataclass(frozen=True)
class Told:
    """What a kernel says of a job; `error` is its line or ""."""

    status: str
    done: bool
    text: str
    error: str
    response_id: str | None

    @property
    def line(self) -> str:
        """The status, and why."""
        return f"{self.status}: {short(self.error)}" if self.error else self.status


def short(text: str, most: int = 150) -> str:
    """``text`` in one line of a table: without ids, times and ports, which differ each time."""
    line = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split()).replace("|", "/")
    line = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|(?<=resp_)\w{8,}|(?<=127\.0\.0\.1:)\d+", "…", line)
    return line if len(line) <= most else line[: most - 1] + "…"


class Trial:
    """One server, and the notebook at which its steps are done."""

    def __init__(self, running: Running, folder: Path) -> None:
        self.running = running
        self._folder = folder
        self._journals = 0

    def journal(self) -> Path:
        """A file for a new journal."""
        self._journals += 1
        return self._folder / f"journal-{self._journals}.sqlite3"

    @contextlib.contextmanager
    def kernel(self, journal: Path | None = None) -> Iterator[Kernel]:
        """A kernel with the extension, pointed at the server."""
        recipe = self.running.recipe
        with kernel(
            OPENAI_API_KEY=recipe.key, OPENAI_BASE_URL=self.running.base_url,
            BGMAGIC_MODEL=recipe.model, BGMAGIC_POLL="1",
            BGMAGIC_JOURNAL=str(journal or self.journal()),
            JPY_SESSION_NAME="/home/user/servers.ipynb",
        ) as started:  # fmt: skip
            started.ok("import bgmagic, json\n%load_ext bgmagic")
            yield started


def told(notebook: Kernel, job: str) -> Told:
    """What is known of a job; of an answer, its job's."""
    said = notebook.ok(
        f"_it = {job} if isinstance({job}, bgmagic.Job) else {job}.job\n"
        "print(json.dumps([_it.status, _it.done(), _it.text, str(_it.error or ''), _it.response_id]))"
    )
    return Told(*json.loads(said.stdout.splitlines()[-1]))


def ended(notebook: Kernel, job: str, limit: float = LIMIT) -> Told:
    """Waits until a job has ended, asking from outside."""
    end = time.monotonic() + limit
    while not (newest := told(notebook, job)).done:
        if time.monotonic() > end:
            raise Fails(f"still {newest.line} after {limit:.0f} s")
        time.sleep(0.3)
    return newest


def completed(notebook: Kernel, job: str, limit: float = LIMIT) -> Told:
    """Waits until a job has an answer."""
    newest = ended(notebook, job, limit)
    if newest.status != "completed" or newest.error or not newest.text:
        raise Fails(newest.line)
    return newest


def at_work(notebook: Kernel, job: str, limit: float = 15.0) -> Told:
    """Waits until the server has a job, or a while if it says nothing of it."""
    end = time.monotonic() + limit
    while not (newest := told(notebook, job)).response_id and time.monotonic() < end:
        if newest.done:
            return newest
        time.sleep(0.2)
    time.sleep(1.5)  # until the model writes; nothing tells when
    return told(notebook, job)


def _long(number: int) -> str:
    return f"{LONG[number]!r}, param={{'temperature': 0}}"


# Each of these gives what is said in the table, or raises Fails.


def job(trial: Trial) -> str:
    with trial.kernel() as notebook:
        notebook.ok(f"job = bgmagic.submit({SHORT!r})")
        completed(notebook, "job")
        return ""


def cell(trial: Trial) -> str:
    with trial.kernel() as notebook:
        notebook.ok(f"%%bgresponse -o answer\n{SHORT} Blue?")
        completed(notebook, "answer")
        if notebook.value("type(answer).__name__") != "'Answer'":
            raise Fails("the variable holds no answer")
        return ""


def chain(trial: Trial) -> str:
    with trial.kernel() as notebook:
        notebook.ok("%%bgresponse -o first\nName an animal in one word.")
        notebook.ok("%%bgresponse -o second\nSay in one short sentence what this is: {{ first }}")
        completed(notebook, "first")
        completed(notebook, "second")
        return ""


def sweep(trial: Trial) -> str:
    with trial.kernel() as notebook:
        notebook.ok(
            "numbers = list(range(20))\n"
            "group = bgmagic.map('Answer in one word. The colour number {{ item }}?', numbers)"
        )
        counts = _all_ended(notebook, 4 * LIMIT)
        if counts != {"completed": 20}:
            raise Fails(f"{counts}, {_first_error(notebook)}")
        return ""


def _all_ended(notebook: Kernel, limit: float) -> dict[str, int]:
    end = time.monotonic() + limit
    while notebook.value("all(job.done() for job in group.jobs)") != "True":
        if time.monotonic() > end:
            raise Fails(f"{notebook.value('group.counts')} after {limit:.0f} s")
        time.sleep(0.5)
    counts = notebook.ok("print(json.dumps(group.counts))").stdout
    return {str(status): int(count) for status, count in json.loads(counts).items() if count}


def _first_error(notebook: Kernel) -> str:
    return short(notebook.value("str(next((job.error for job in group.failed), ''))"))


def cancel(trial: Trial) -> str:
    with trial.kernel() as notebook:
        notebook.ok(f"job = bgmagic.submit({_long(0)})")
        return _cancelled(notebook)


def _cancelled(notebook: Kernel) -> str:
    before = at_work(notebook, "job")
    if before.done:
        raise Fails(f"ended too soon to be cancelled: {before.line}")
    notebook.ok("job.cancel()")
    after = ended(notebook, "job", 45)
    if after.status != "cancelled":
        raise Fails(after.line)
    return ""


def cancel_at_once(trial: Trial) -> str:
    with trial.kernel() as notebook:
        said = notebook.ok(f"job = bgmagic.submit({_long(1)}, out='job')\n%bgcancel job").said
        after = ended(notebook, "job", 45)
        if after.status != "cancelled":
            raise Fails(f"%bgcancel: {short(said, 60)}; {after.line}")
        return ""


def stream(trial: Trial) -> str:
    with trial.kernel() as notebook:
        notebook.ok(f"job = bgmagic.submit({MIDDLING!r}, stream=True)")
        pieces: set[str] = set()
        end = time.monotonic() + LIMIT
        while not (newest := told(notebook, "job")).done and time.monotonic() < end:
            pieces.add(newest.text)
        completed(notebook, "job", 1)
        if len(pieces - {""}) < 2:
            raise Fails("completed, but nothing was shown before the end")
        return ""


def cancel_stream(trial: Trial) -> str:
    with trial.kernel() as notebook:
        notebook.ok(f"job = bgmagic.submit({_long(2)}, stream=True)")
        return _cancelled(notebook)


def continued(trial: Trial) -> str:
    """Three turns: how each went out, and whether a refusal is remembered."""
    with trial.kernel() as notebook:
        notebook.ok(
            "%%bgresponse -o talk --param temperature=0\nMy name is Ada. Say hello to me in one sentence."
        )
        completed(notebook, "talk")
        ways = []
        for number, question in enumerate(("What is my name?", "And once more, what is it?")):
            before = len(trial.running.proxy.creates())
            notebook.ok(
                f"%%bgresponse --param temperature=0 -c {('talk', 'turn0')[number]} -o turn{number}\n{question}"
            )
            completed(notebook, f"turn{number}")
            posts = [json.loads(one.body) for one in trial.running.proxy.creates()[before:]]
            by_id = ["by its id" if post.get("previous_response_id") else "whole" for post in posts]
            ways.append(", then ".join(by_id))
        return f"second turn sent {ways[0]}; third {ways[1]}"


def function(trial: Trial) -> str:
    """A function is called, and its output read; so small a model only calls if it is made to."""
    with trial.kernel() as notebook:
        notebook.ok("def add(a: int, b: int) -> int:\n    'Add two numbers.'\n    return a + b")
        before = len(trial.running.proxy.creates())
        notebook.ok(FORCED)
        completed(notebook, "sum")
        outputs = notebook.value("[step.output for step in sum.steps]")
        if "5" not in outputs:
            raise Fails(f"the outputs of its calls are {outputs}")
        posts = [json.loads(one.body) for one in trial.running.proxy.creates()[before:]]
        by_id = "by its id" if posts[-1].get("previous_response_id") else "whole"
        rounds = notebook.value("sum.steps[-1].round")
        return f"{outputs.count(',') + 1} call(s), {rounds} round(s), the outputs sent {by_id}"


SLOW_ADD = """
import time
def add(a: int, b: int) -> int:
    'Add two numbers.'
    time.sleep({seconds})
    return a + b
"""


def killed_in_a_round(trial: Trial) -> str:
    """The kernel is killed as the function runs: the next one asks before it runs that again."""
    journal = trial.journal()
    with trial.kernel(journal) as first:
        first.ok(SLOW_ADD.format(seconds=600))
        # Not what another step asks: the proxy counts what is accepted twice.
        first.ok(FORCED.replace("sum", "total").replace("2 and 3", "3 and 2"))
        _until(first, "total", "running")
        first.manager.signal_kernel(9)
    with trial.kernel(journal) as second:
        second.ok(SLOW_ADD.format(seconds=0))
        second.ok("%bgattach total")
        _until(second, "total", "unknown")
        second.ok("total.allow()")
        completed(second, "total")
        return f"asked, then {second.value('total.steps[0].output')}"


def _until(notebook: Kernel, job: str, status: str) -> None:
    """Waits until the first call of a job has a status."""
    end, step = time.monotonic() + LIMIT, f"({job}.steps or [None])[0]"
    while (newest := notebook.value(f"getattr({step}, 'status', None)")) != repr(status):
        if time.monotonic() > end:
            raise Fails(f"its call is {newest}, not {status}, after {LIMIT:.0f} s")
        time.sleep(0.3)


def turns_of_parts(trial: Trial) -> str:
    return _turns_taken(trial, TURNS)


def turns_of_calls(trial: Trial) -> str:
    return _turns_taken(trial, ROUND)


def _turns_taken(trial: Trial, turns: list[dict[str, object]]) -> str:
    with trial.kernel() as notebook:
        notebook.ok(f"turns = {turns!r}")
        notebook.ok("%%bgresponse --messages turns -o more\nAnd what is it now?")
        completed(notebook, "more")
        return ""


def schema(trial: Trial) -> str:
    with trial.kernel() as notebook:
        notebook.ok(f"job = bgmagic.submit('Describe a dog.', schema={SCHEMA!r})")
        completed(notebook, "job")
        data = notebook.value("job.result().data")
        if not ("name" in data and "legs" in data):
            raise Fails(f"data is {short(data, 60)}")
        return ""


def effort(trial: Trial) -> str:
    with trial.kernel() as notebook:
        notebook.ok(f"job = bgmagic.submit({SHORT + ' Think little.'!r}, effort='low')")
        completed(notebook, "job")
        return ""


def instructions(trial: Trial) -> str:
    with trial.kernel() as notebook:
        notebook.ok("job = bgmagic.submit('Hello.', instructions='Answer in one short sentence.')")
        completed(notebook, "job")
        return ""


def max_tokens(trial: Trial) -> str:
    with trial.kernel() as notebook:
        notebook.ok(f"job = bgmagic.submit({MIDDLING + ' Now.'!r}, max_output_tokens=16)")
        newest = ended(notebook, "job")
        if newest.status != "incomplete" or not newest.text:
            raise Fails(newest.line if newest.text else f"{newest.line}, without its text")
        return short(newest.error)


def unknown_model(trial: Trial) -> str:
    with trial.kernel() as notebook:
        notebook.ok(f"job = bgmagic.submit({SHORT!r}, model='no-such-model')")
        newest = ended(notebook, "job", 45)
        if newest.status != "failed":
            raise Fails(newest.line)
        if newest.error.count("{") or "model" not in newest.error:
            raise Fails(f"said as: {newest.error}")
        return short(newest.error)


def attach_by_name(trial: Trial) -> str:
    journal = trial.journal()
    with trial.kernel(journal) as first:
        first.ok(f"%%bgresponse -o report\n{MIDDLING} Please.")
        at_work(first, "report")
        first.manager.signal_kernel(9)
    with trial.kernel(journal) as second:
        said = second.ok("%bgattach report").said
        if "report" not in second.ok("%who").stdout:
            raise Fails(short(said))
        completed(second, "report")
        return ""


def attach_by_id(trial: Trial) -> str:
    with trial.kernel() as first:
        first.ok("%%bgresponse -o report\nWrite one sentence about the sea.")
        response_id = completed(first, "report").response_id
    with trial.kernel() as second:
        second_said = second.run(f"%bgattach {response_id} -o again")
        if second_said.status != "ok":
            raise Fails(short(second_said.said))
        completed(second, "again", LOST)
        return ""


def unknown_id(trial: Trial) -> str:
    with trial.kernel() as notebook:
        notebook.ok("%%bgresponse -o report\nWrite one sentence about the land.")
        known = completed(notebook, "report").response_id or ""
        other = known[:-6] + ("abcdef" if known[-6:] != "abcdef" else "fedcba")
        begun = time.monotonic()
        ran = notebook.run(f"%bgattach {other} -o nothing")
        if ran.status != "ok":
            raise Fails(short(ran.said))
        newest = ended(notebook, "nothing", LOST)
        if newest.status != "lost":
            raise Fails(newest.line)
        return f"after {time.monotonic() - begun:.0f} s: {short(newest.error, 90)}"


def killed(trial: Trial) -> str:
    with trial.kernel() as notebook:
        notebook.ok(f"job = bgmagic.submit({_long(3)})")
        at_work(notebook, "job")
        trial.running.kill()
        time.sleep(3)  # polls are refused meanwhile
        try:
            down = told(notebook, "job")
            if down.done and down.status not in ("unknown",):
                raise Fails(f"while the server was down: {down.line}")
        finally:
            trial.running.start()
        begun = time.monotonic()
        newest = ended(notebook, "job", BACK)
        if newest.status == "cancelled":
            raise Fails(newest.line)
        return f"{newest.status} after {time.monotonic() - begun:.0f} s: {short(newest.error, 90)}"


def restarted(trial: Trial) -> str:
    with trial.kernel() as notebook:
        notebook.ok(
            "words = ['red', 'green', 'blue', 'black', 'white', 'grey']\n"
            "group = bgmagic.map('Write two sentences about {{ item }}.', words)"
        )
        proxy, end = trial.running.proxy, time.monotonic() + 30
        sent = len(proxy.creates())
        while len(proxy.creates()) < sent + 4 and time.monotonic() < end:
            time.sleep(0.05)  # until the server has some, and others wait
        trial.running.kill()
        time.sleep(3)
        trial.running.start()
        notebook.ok("after = bgmagic.submit('Say in one word that you are back.')")
        completed(notebook, "after")
        counts = _all_ended(notebook, BACK)
        return ", ".join(f"{count} {status}" for status, count in counts.items())


STEPS: dict[str, Callable[[Trial], str]] = {
    "a job": job,
    "a cell": cell,
    "a chain": chain,
    "a sweep of 20": sweep,
    "cancel": cancel,
    "cancel at once": cancel_at_once,
    "--stream": stream,
    "cancel of a stream": cancel_stream,
    "-c": continued,
    "--tool $function": function,
    "kernel killed in a round": killed_in_a_round,
    "--messages, turns of calls": turns_of_calls,
    "--messages, turns of parts": turns_of_parts,
    "--schema": schema,
    "-e low": effort,
    "-i": instructions,
    "--max-output-tokens": max_tokens,
    "unknown model": unknown_model,
    "kernel killed, attach by name": attach_by_name,
    "attach by id": attach_by_id,
    "attach by unknown id": unknown_id,
    "server killed in the middle": killed,
    "sweep over a restart": restarted,
}
