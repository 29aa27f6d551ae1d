"""What a display costs on the wire: comm messages and bytes over the life of one job."""

from __future__ import annotations

import json
import queue

from tests.benchmarks.measures import KEY, Row, serving
from tests.support.kernels import Kernel, kernel

POLLS = 9  # a job of 69 seconds: polls after 1, 2 and 4 seconds and then every 10
SECONDS = 69

BOX = """
import ipywidgets
labels = [ipywidgets.Label(text) for text in ("critique", "queued", "0:00", "gpt-5.2", "resp_1", "")]
display(ipywidgets.HBox([*labels, ipywidgets.Button(description="Cancel")]))
for second in range({seconds}):
    labels[2].value = f"{{second // 60}}:{{second % 60:02}}"
labels[1].value = "completed"
"""


def _traffic(running: Kernel, code: str) -> tuple[int, int, int]:
    """Comms opened, messages and bytes that a cell, and what it started, sends to the browser."""
    running.client.execute(code)
    opened = messages = size = 0
    while True:
        try:
            message = running.client.get_iopub_msg(timeout=3)
        except queue.Empty:
            return opened, messages, size
        if message["msg_type"].startswith("comm_"):
            opened += message["msg_type"] == "comm_open"
            messages += 1
            size += len(json.dumps(message["content"]))


def traffic() -> list[Row]:
    """The card of a job against a box of the same content that is updated each second."""
    with (
        serving(polls=POLLS - 1) as url,
        kernel(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=url, BGMAGIC_POLL="0.3") as running,
    ):
        running.ok("%load_ext bgmagic")
        ours = _traffic(running, "%%bgresponse -o x\nWhy?")
        box = _traffic(running, BOX.format(seconds=SECONDS))

    def told(found: tuple[int, int, int]) -> str:
        return f"{found[0]} comms, {found[1]} messages, {found[2] / 1000:.1f} kB"

    about = f"display of a job of {SECONDS} s, {POLLS} polls"
    return [Row(about, told(ours), f"HBox set each second: {told(box)}", "at most 2 comms")]
