"""Real kernels for the tests: start one, run a cell, read what came of it."""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

LIMIT = 120.0  # seconds a cell may take before a test gives up on it


@dataclass
class Ran:
    """What one cell gave."""

    status: str
    stdout: str = ""
    stderr: str = ""
    errors: list[str] = field(default_factory=list)
    displays: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)  # of what other cells displayed
    display_ids: set[str] = field(default_factory=set)  # of what it displayed itself
    result: str | None = None
    next_input: str | None = None  # what a new cell is to hold
    seconds: float = 0.0  # from sending the cell to its reply

    @property
    def said(self) -> str:
        """Everything a user would read under the cell."""
        shown = [display.get("text/plain", "") for display in self.displays]
        parts = [self.stdout, self.stderr, *shown, *self.errors, self.result or ""]
        return "\n".join(parts).strip()


class Kernel:
    """A kernel and its client, which names its cells as JupyterLab and Notebook do.

    Attributes:
        names_cells: False for a client that doesn't, as a console.
        takes_input: False where nobody can type, as when a program sends the cells.
    """

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client
        self.names_cells = self.takes_input = True

    def start(self, code: str) -> str:
        """Send a cell without waiting for it."""
        content = {
            "code": code, "silent": False, "store_history": True, "user_expressions": {},
            "allow_stdin": self.takes_input, "stop_on_error": True,
        }  # fmt: skip
        message = self.client.session.msg("execute_request", content)
        if self.names_cells:
            message["metadata"]["cellId"] = message["header"]["msg_id"]
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def finish(self, message_id: str, limit: float = LIMIT) -> Ran:
        """Wait for a cell that was started."""
        ran, begun = Ran("?"), time.monotonic()
        while True:
            left = begun + limit - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"the cell is still running after {limit} s: {ran}")
            try:
                message = self.client.get_iopub_msg(timeout=left)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") != message_id:
                continue
            if self._take(ran, message["msg_type"], message["content"]):
                break
        while True:
            reply = self.client.get_shell_msg(timeout=limit)
            if reply["parent_header"].get("msg_id") == message_id:
                break
        ran.status = reply["content"]["status"]
        for payload in reply["content"].get("payload", ()):
            ran.next_input = payload.get("text")
        # As the kernel and the client stamped their messages: without the time this loop takes.
        ran.seconds = (reply["header"]["date"] - reply["parent_header"]["date"]).total_seconds()
        return ran

    def run(self, code: str, limit: float = LIMIT) -> Ran:
        """Run a cell and wait for it."""
        return self.finish(self.start(code), limit)

    def ok(self, code: str, limit: float = LIMIT) -> Ran:
        """Run a cell that must succeed."""
        ran = self.run(code, limit)
        assert ran.status == "ok", ran.said
        return ran

    def value(self, expression: str) -> str:
        """The repr of an expression."""
        return self.ok(f"print(repr({expression}))").stdout.strip()

    def until(self, condition: str, limit: float = LIMIT) -> None:
        """Wait until an expression is true, asking from outside, so that the kernel stays free."""
        end = time.monotonic() + limit
        while self.value(f"bool({condition})") != "True":
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {condition}")
            time.sleep(0.05)

    @staticmethod
    def _take(ran: Ran, kind: str, content: dict[str, Any]) -> bool:
        if kind == "stream":
            setattr(ran, content["name"], getattr(ran, content["name"]) + content["text"])
        elif kind == "error":
            ran.errors.extend(content["traceback"])
        elif kind in ("display_data", "update_display_data"):
            # The end of a job that an earlier cell sent may come now: it stands under that cell.
            display_id = content.get("transient", {}).get("display_id")
            if kind == "display_data":
                ran.display_ids.add(display_id)
            own = display_id in ran.display_ids
            (ran.displays if own else ran.updates).append(content["data"])
        elif kind == "execute_result":
            ran.result = content["data"]["text/plain"]
        return kind == "status" and content["execution_state"] == "idle"


@contextlib.contextmanager
def kernel(**environment: str) -> Iterator[Kernel]:
    """A kernel of this interpreter, without the user's key, with ``environment`` added."""
    hidden = ("OPENAI_", "BGMAGIC_", "AZURE_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    kept = {k: v for k, v in os.environ.items() if k.startswith(("BGMAGIC_LOCAL", "BGMAGIC_CACHE"))}
    # A journal of the user's is not the tests' to write to.
    apart = {"BGMAGIC_JOURNAL": ":memory:"}
    manager, client = _started(env | kept | apart | environment)
    try:
        yield Kernel(manager, client)
    finally:
        _end(manager, client)


def _started(env: dict[str, str], tries: int = 3) -> tuple[KernelManager, BlockingKernelClient]:
    """A kernel that has answered. Tried again if it ended at once: between the choice of its ports and
    their use another process, of a test beside this one, may have taken one of them; or if it never
    answers, as was seen once on a busy machine."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=env)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=LIMIT if tries == 1 else LIMIT / 2)
    except BaseException as error:
        _end(manager, client)
        if tries > 1 and isinstance(error, RuntimeError):
            return _started(env, tries - 1)
        raise
    return manager, client


def _end(manager: KernelManager, client: BlockingKernelClient) -> None:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
