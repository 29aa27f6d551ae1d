"""Screenshots of every state in a real JupyterLab: ``python -m tests.pictures FOLDER``.

In light and dark, wide and narrow; ``running.png`` of the light wide ones is the README's picture.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from tests.browser import Lab, jupyterlab, notebook, page
from tests.conftest import KEY
from tests.scripted import Script, ScriptedServer, event, response, written

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
STREAMED = [f"{word} " for word in PARTIAL.split()]
STATES = (
    "queued", "running", "streaming", "completed", "failed", "incomplete", "cancelled", "unknown",
    "lost", "offline", "waiting",
)  # fmt: skip


def ending(rid: str, body: Any) -> dict[str, Any]:
    """What the scripted server says of a response, by the name its prompt begins with."""
    state = body["input"][-1]["content"][0]["text"].split()[0]
    if state == "queued":
        return response(rid, "queued", model="gpt-5.2")
    if state == "completed":
        return response(rid, "completed", ANSWER, usage=USAGE, model="gpt-5.2-2026-10-01")
    if state == "failed":
        told = {"code": "server_error", "message": "The model had an error while processing this."}
        return response(rid, "failed", error=told)
    if state == "incomplete":
        why = {"reason": "max_output_tokens"}
        return response(rid, "incomplete", PARTIAL, incomplete_details=why, usage=USAGE)
    if state == "cancelled":
        return response(rid, "cancelled")
    return response(rid, "in_progress", model="gpt-5.2")


def streamed(rid: str) -> list[Any]:
    """Some reasoning and some text, and then nothing for as long as the pictures are taken."""
    thought = "The claim in step 2 needs a bound on f. **Checking the interval.**"
    reasoning = event("response.reasoning_summary_text.delta", 2, delta=thought)
    begun, *deltas = written(rid, STREAMED)[:-1]
    later = [item | {"sequence_number": item["sequence_number"] + 2} for item in deltas]
    return [begun, reasoning, *later, threading.Event()]


def cells() -> list[str]:
    made = ["%load_ext bgmagic"]
    for state in STATES:
        flags = " --stream" if state == "streaming" else ""
        prompt = f"{state} Find the three weakest steps in this proof."
        made.append(f"%%bgresponse -o {state} -e xhigh{flags}\n{prompt}")
    return [*made, "%bgjobs"]


def take(folder: Path, theme: str, width: int) -> None:
    """Take one picture of each state."""
    told = {"error": {"message": "Response not found.", "type": "invalid_request_error"}}
    with ScriptedServer() as server, tempfile.TemporaryDirectory() as work:
        server.polls, server.ending, server.stream = 0, ending, streamed
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
            lab.run(0)
            for number, state in enumerate(STATES, 1):
                if state == "unknown":
                    server.enqueue("create", Script(reset="after"))
                if state == "waiting":
                    server.enqueue("create", *[Script(status=429, json=told)] * 9)
                rid = f"resp_{len(server.responses) + 1}"
                if state == "lost":
                    server.by_id[rid] = Script(status=404, json=told)
                lab.run(number)
                output = lab.cell(number).locator(".jp-Cell-outputArea")
                word = {"running": "in progress", "streaming": "which", "offline": "in progress"}
                output.get_by_text(word.get(state, state)).first.wait_for(timeout=30000)
                if state == "offline":
                    server.by_id[rid] = Script(reset="before")
                    output.get_by_text("Offline, the job").wait_for(timeout=30000)
                if state in ("completed", "failed", "incomplete", "cancelled", "lost"):
                    output.locator(".bgmagic-card").wait_for(state="detached", timeout=30000)
                tab.mouse.move(5, 5)
                lab.cell(number).screenshot(path=folder / f"{state}-{theme}-{width}.png")
            lab.run(len(STATES) + 1)
            output = lab.cell(len(STATES) + 1).locator(".jp-Cell-outputArea")
            output.get_by_text("queued").first.wait_for(timeout=30000)
            lab.cell(len(STATES) + 1).screenshot(path=folder / f"board-{theme}-{width}.png")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    for theme in ("light", "dark"):
        for width in (1200, 560):
            take(folder, theme, width)
    print(f"{len(list(folder.glob('*.png')))} pictures in {folder}")


if __name__ == "__main__":
    main()
