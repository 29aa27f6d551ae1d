"""Screenshots of every state in a real JupyterLab: ``python -m tests.pictures FOLDER [STATE…]``.

In light and dark, wide and narrow, and what is left as nbconvert shows it and without any styles.
``streaming-light-1200.png``, the four of ``panel`` and two of ``batch`` are the README's pictures. With states named, these
alone, wide, in light or with ``--dark`` in dark, which takes a single JupyterLab.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bgmagic.storage.database import StoredJob
from bgmagic.storage.journal import Journal
from tests.conftest import KEY
from tests.runtime.test_calls import calling
from tests.support.browser import Lab, jupyterlab, notebook, page
from tests.support.scripted import Script, ScriptedServer, event, response, written

ANSWER = """The proof has three weak steps.

| step | what is claimed | what is missing |
|---|---|---|
| 2 | $f$ is bounded | only shown on $[0, 1)$ |
| 5 | $\\sum a_n$ converges | needs $a_n = O(n^{-2})$ |

1. **Step 2** uses that $f$ is *continuous*, which holds only for $x < 1$.
2. **Step 5** exchanges limit and sum: $$\\lim_{n} \\sum_k a_{nk} = \\sum_k \\lim_n a_{nk}.$$
3. **Step 7** is checked by this:

```python
def gap(n: int) -> float:
    # the tail that the proof drops
    return sum(1 / k**2 for k in range(n, 10 * n))
```
"""
PARTIAL = "The first weak step is the second one: it uses that $f$ is bounded, which"
USAGE = {
    "input_tokens": 812,
    "output_tokens": 9406,
    "output_tokens_details": {"reasoning_tokens": 8960},
    "total_tokens": 10218,
}
THOUGHT = "The claim in step 2 needs a bound on f. **Checking the interval.** It is only half open."
PIECES = [f"{word} " for word in PARTIAL.split()]
FUNCTIONS = '''
import bgmagic

letters = [f"letter {number}" for number in range(200)]


def look_up(city: str) -> str:
    """Look up the weather of a city."""
    return f"12 degrees and rain in {city}"


@bgmagic.tool(ask=True)
def send_mail(to: str, text: str) -> str:
    """Send a mail."""
    return "sent"
'''
CALLS = [
    ("look_up", {"city": "Bern"}),
    ("send_mail", {"to": "ada@example.org", "text": "It is 12 degrees in Bern, and it rains."}),
]
LONG = "the_weakest_steps_of_the_proof_that_was_sent_by_the_editor_in_march"
QUESTION = "Find the three weakest steps in this proof."
# Each with its variable, the options of its cell, and the words that show that it is reached.
STATES = {
    "submitting": ("critique", "", "submitting"),
    "queued": ("outline", "", "queued"),
    "running": ("survey", "", "in progress"),
    "streaming": ("weak_steps", "--stream --param reasoning.summary=auto", "which"),
    "asking": ("mail", "--tool $look_up --tool $send_mail", "asks"),
    "confirming": ("lemma", "", "in progress"),
    "cancelling": ("appendix", "", "in progress"),
    "earlier": ("outline", "-v high", "queued"),
    "offline": ("referee", "", "in progress"),
    "failing": ("referee_b", "", "in progress"),
    "detached": ("overnight", "--deadline 1s", "detached"),
    "unknown": ("figures", "", "Send again"),
    "completed": ("proof", "", "completed"),
    "folded": ("book", "", "Show the remaining"),
    "failed": ("tables", "", "failed"),
    "incomplete": ("draft", "--max-output-tokens 9406", "incomplete"),
    "cancelled": ("notes", "", "cancelled"),
    "refused": ("advice", "", "refused"),
    "lost": ("old", "", "lost"),
    "long": (LONG, "", "in progress"),
    "batch": ("study", "--each letters --batch --yes 200 --poll 1", "1 failed"),
    "waiting": ("appraisal", "", "waiting"),  # last: whatever is sent then has to wait
}
ENDED = ("completed", "folded", "failed", "incomplete", "cancelled", "refused", "lost")


class Stage:
    """The scripted server, told which state comes next."""

    def __init__(self, server: ScriptedServer) -> None:
        self.server = server
        self.states: dict[str, str] = {}
        self.held = threading.Event()
        server.polls, server.ending, server.stream = 0, self._ending, self._streamed

    def prepare(self, state: str) -> str:
        """Have the next submission end in ``state``; gives its response id."""
        rid = f"resp_{len(self.server.responses) + 1}"
        self.states[rid] = state
        told = {"error": {"message": "Rate limit reached for gpt-5.2.", "code": "slow_down"}}
        if state == "submitting":
            self.server.enqueue("create", Script(hold=self.held, reset="before"))
        elif state == "waiting":
            self.server.enqueue("create", *[Script(status=429, json=told)] * 30)
        elif state == "unknown":
            self.server.enqueue("create", Script(reset="after"))
        elif state == "lost":
            self.server.by_id[rid] = Script(status=404, json={"error": {"message": "Not found."}})
        return rid

    def _ending(self, rid: str, _body: Any) -> dict[str, Any]:
        state = self.states.get(rid, "")
        if state in ("queued", "earlier"):
            return response(rid, "queued", model="gpt-5.2")
        if state == "asking":
            return calling(rid, CALLS, model="gpt-5.2-2026-10-01")
        if state == "completed":
            return response(rid, "completed", ANSWER, usage=USAGE, model="gpt-5.2-2026-10-01")
        if state == "folded":
            text = "\n\n".join([ANSWER] * 6)
            return response(rid, "completed", text, usage=USAGE, model="gpt-5.2-2026-10-01")
        if state == "failed":
            told = {"code": "server_error", "message": "The model had an error."}
            return response(rid, "failed", error=told)
        if state == "incomplete":
            why = {"reason": "max_output_tokens"}
            return response(rid, "incomplete", PARTIAL, incomplete_details=why, usage=USAGE)
        if state == "cancelled":
            return response(rid, "cancelled")
        if state == "refused":
            part = {"type": "refusal", "refusal": "I can't help with that."}
            return response(
                rid, "completed", output=[{"type": "message", "content": [part]}], usage=USAGE
            )
        if state == "long":
            return response(rid, "in_progress", model="gpt-5.2-preview-with-a-very-long-name-" * 2)
        return response(rid, "in_progress", model="gpt-5.2-2026-10-01")

    def _streamed(self, rid: str) -> list[Any]:
        """Some reasoning and some text, and then nothing for as long as the pictures are taken."""
        begun, going, *deltas = written(rid, PIECES)[:-1]
        thought = event("response.reasoning_summary_text.delta", 2, delta=THOUGHT)
        later = [item | {"sequence_number": item["sequence_number"] + 1} for item in deltas]
        return [begun, going, thought, *later, threading.Event()]


def cells() -> list[str]:
    asked = [
        f"%%bgresponse -o {name} -e xhigh {flags}".strip()
        + f"\n{QUESTION if '--each' not in flags else 'Translate {{ item }}.'}"
        for name, flags, _ in STATES.values()
    ]
    return [f"%load_ext bgmagic\n{FUNCTIONS}", *asked, "%bgjobs"]


def remember(path: Path, server: ScriptedServer) -> None:
    """Earlier jobs of the same model and effort, for what the card says of them."""
    journal = Journal(path)
    for number, minutes in enumerate((7.5, 9.2, 12.0, 14.1, 31.4)):
        sent = time.time() - 86_400 * (number + 1)
        entry = StoredJob(
            key=f"past{number}", created_at=sent, notebook="states.ipynb", name="earlier",
            server=server.base_url, organization=None, project=None, credentials="c" * 32,
            fingerprint=f"f{number}", request="{}", sendable=True, model="gpt-5.2", effort="xhigh",
            poll_interval=None, deadline=86_400.0, status="submitting", owner=None,
        )  # fmt: skip
        journal.add(entry).result(60)
        ended = {"status": "completed", "ended_at": sent + 60 * minutes, "accepted_at": sent}
        journal.change(entry.key, response_id=f"resp_old{number}", **ended).result(60)
    journal.close(60)


@contextlib.contextmanager
def opened(theme: str, width: int) -> Iterator[tuple[Lab, Stage, Path]]:
    with ScriptedServer() as server, tempfile.TemporaryDirectory() as work:
        remember(Path(work) / ".journal.sqlite3", server)
        path = notebook(Path(work) / "states.ipynb", cells())
        environment = {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": server.base_url,
            "BGMAGIC_POLL": "0.3",
        }
        with (
            jupyterlab(Path(work), theme=theme, **environment) as url,
            page(viewport={"width": width, "height": 900}, device_scale_factor=1.5) as tab,
        ):
            lab = Lab(tab, url.format(path.name))
            tab.keyboard.press("Control+b")  # more room: without the list of files
            lab.run(0)
            yield lab, Stage(server), path


def take(folder: Path, theme: str, width: int, chosen: Sequence[str] = ()) -> None:
    """Take one picture of each state, or of the chosen ones alone."""
    with opened(theme, width) as (lab, stage, path):
        places = {state: number for number, state in enumerate(STATES, 1)}
        shots = f"-{theme}-{width}.png"
        states = [state for state in STATES if state in chosen or not chosen]
        later = [state for state in states if state not in (*ENDED, "submitting", "waiting")]

        def shot(state: str) -> None:
            lab.page.mouse.move(5, 5)
            lab.cell(places[state]).screenshot(path=folder / f"{state}{shots}")

        for state in states:
            reach(lab, stage, places[state], state)
            if state not in later:
                shot(state)
        if not chosen:
            places["board"] = len(STATES) + 1
            lab.run(places["board"])
            board = lab.cell(places["board"]).locator(".bgmagic-board")
            board.get_by_role("button", name="proof", exact=True).click()
            board.get_by_text("The proof has three weak steps.").wait_for()
            shot("board")
        if "confirming" in states:
            lab.cell(places["confirming"]).get_by_role("button", name="Cancel").click()
        for state in later:
            shot(state)
        if not chosen:
            lab.page.keyboard.press("Control+s")
            left(folder, path, lab.page, shots)
            lab.restart()
            lab.cell(places["running"]).get_by_text("This kernel has ended").wait_for()
            places["restarted"] = places["running"]
            shot("restarted")
        stage.held.set()


PROMPT = """%%bgresponse -o weak_steps --effort xhigh --verbosty low
# Review this proof, don't be kind

Find the **three weakest steps** in it, and for each:

- what is claimed, in one line
- what's missing in `{{ claims["lemma 2"] }}`

{{ proof | upper }}"""


def take_panel(folder: Path, theme: str, width: int) -> None:
    """Take a picture of a coloured prompt beside the panel of jobs."""
    with ScriptedServer() as server, tempfile.TemporaryDirectory() as work:
        server.polls = 10**6
        remember(Path(work) / ".journal.sqlite3", server)
        journal, now = Journal(Path(work) / ".journal.sqlite3"), time.time()
        past = journal.find("past0")
        assert past is not None
        ended = {"status": "completed", "owner": None, "response_id": "resp_68ab"}
        told = response("resp_68ab", "completed", ANSWER, usage=USAGE, model="gpt-5.2")
        for key, name, change in (
            ("a", "survey", {**ended, "response": json.dumps(told)}),
            ("b", "referee", {"status": "failed", "reason": "server_error"}),
        ):
            about = {"key": key, "name": name, "notebook": str(Path(work) / "review.ipynb")}
            began = {"created_at": now - 5000, "ended_at": now - 4000}
            journal.add(replace(past, **about, **began, **change)).result(60)
        journal.close(60)
        code = "claims = {'lemma 2': 'f is bounded', 'in': 1}"
        asked = "%%bgresponse -o outline -e xhigh --quiet\nOutline it."
        path = notebook(Path(work) / "proof.ipynb", ["%load_ext bgmagic", code, PROMPT, asked])
        notebook(Path(work) / "review.ipynb", [""])
        key = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.base_url}
        with (
            jupyterlab(Path(work), theme=theme, **key) as url,
            page(viewport={"width": width, "height": 620}) as tab,
        ):
            lab = Lab(tab, url.format(path.name))
            tab.keyboard.press("Control+b")
            lab.run(0)
            lab.run(3)
            tab.locator(".bgpanel-count").click()
            tab.locator(".bgpanel-row", has_text="survey").click()
            tab.locator(".bgpanel-detail mjx-container").first.wait_for()
            tab.mouse.move(5, 5)
            tab.screenshot(path=folder / f"panel-{theme}-{width}.png")


def reach(lab: Lab, stage: Stage, place: int, state: str) -> None:
    """Run the cell of a state, and wait until it is reached."""
    rid = stage.prepare(state)
    lab.run(place)
    if state == "batch":
        batching = stage.server.batching
        batching.polls = 10**6
        for _ in range(200):
            if batching.batches:
                break
            lab.page.wait_for_timeout(100)
        (batch,) = batching.batches.values()
        batch["request_counts"] = {"total": 200, "completed": 119, "failed": 1}
    output = lab.cell(place).locator(".jp-Cell-outputArea")
    output.get_by_text(STATES[state][2]).first.wait_for()
    if state in ("offline", "failing"):
        told = {"error": {"message": "Overloaded."}}
        broken = Script(reset="before") if state == "offline" else Script(status=503, json=told)
        stage.server.by_id[rid] = broken
        output.get_by_text("the job goes on").wait_for()
    if state == "cancelling":
        stage.server.by_id[rid] = Script(hold=stage.held)
        for _ in range(2):
            output.get_by_role("button", name="ancel").click()
        output.get_by_text("Cancelling…").wait_for()
    if state in ENDED:
        output.locator(".bgmagic-card").wait_for(state="detached")
        lab.page.wait_for_timeout(300)  # formulas


def left(folder: Path, path: Path, tab: Any, shots: str) -> None:
    """What is saved, as nbconvert shows it, and as a site that strips all styles does."""
    import nbconvert

    while "✓" not in path.read_text():
        tab.wait_for_timeout(100)
    made, _ = nbconvert.HTMLExporter().from_filename(str(path))
    outputs = nbconvert.HTMLExporter(template_name="basic").from_filename(str(path))[0]
    bare = re.sub(r'\s(style|class|tabindex|target|rel|data-\w+)="[^"]*"', "", outputs)
    bare = re.sub(r"<(script|style).*?</\1>", "", bare, flags=re.DOTALL)
    for name, page_source in (("nbconvert", made), ("stripped", bare)):
        other = tab.context.new_page()
        other.set_content(page_source, wait_until="domcontentloaded")
        other.screenshot(path=folder / f"{name}{shots}", full_page=True)
        other.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Take the pictures that the arguments choose."""
    parser = argparse.ArgumentParser(prog="python -m tests.pictures", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the pictures go")
    parser.add_argument("--dark", action="store_true", help="in dark, with states")
    parser.add_argument("states", nargs="*", metavar="STATE", help=", ".join([*STATES, "panel"]))
    asked = parser.parse_args(arguments)
    unknown = [state for state in asked.states if state not in (*STATES, "panel")]
    if unknown:
        parser.error(f"no state {', '.join(unknown)}; there are {', '.join(STATES)}")
    folder: Path = asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    every = [(theme, width) for theme in ("light", "dark") for width in (1200, 560)]
    chosen = [("dark" if asked.dark else "light", 1200)]
    for theme, width in chosen if asked.states else every:
        states = [state for state in asked.states if state != "panel"]
        if states or not asked.states:
            take(folder, theme, width, states)
        if "panel" in asked.states or not asked.states:
            take_panel(folder, theme, width)
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}")


if __name__ == "__main__":
    main()
