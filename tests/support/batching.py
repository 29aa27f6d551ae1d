"""Files and batches of the scripted server: what was uploaded, what was made of it, and results."""

from __future__ import annotations

import email.parser
import email.policy
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MODEL = "gpt-5.2-true"


def answer_of(custom_id: str, body: Any) -> dict[str, Any]:
    """The result of a request: its response, whose text repeats what was asked."""
    asked = body["input"][-1]["content"]
    told = asked if isinstance(asked, str) else asked[-1]["text"]
    part = {"type": "output_text", "text": f"echo: {told}", "annotations": [], "logprobs": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    response = {
        "id": f"resp_{custom_id}", "object": "response", "status": "completed", "model": MODEL,
        "output": [{**message, "content": [part]}], "error": None, "incomplete_details": None,
        "usage": {"input_tokens": 1000, "output_tokens": 100},
    }  # fmt: skip
    answer = {"status_code": 200, "request_id": "req_1", "body": response}
    return {"id": "batch_req_1", "custom_id": custom_id, "response": answer, "error": None}


def failure_of(custom_id: str, code: str, message: str) -> dict[str, Any]:
    """The result of a request that was not done."""
    error = {"code": code, "message": message}
    return {"id": "batch_req_1", "custom_id": custom_id, "response": None, "error": error}


@dataclass
class Files:
    """The files and batches of one server.

    Attributes:
        polls: how many polls a batch takes until it has ended.
        ending: what it ends as: completed, expired, failed or cancelled.
        done: the share of its requests that are done by then.
        result: the line of a request, a failure being one with an ``error``.
        shuffled: whether the results come in another order.
        missing: names of requests that have no line at all.
        late: polls in which a batch that has ended is without its files.
        ranges: whether files can be read from a byte on.
        now: the server's clock, seconds since the epoch.
    """

    polls: int = 1
    ending: str = "completed"
    done: float = 1.0
    result: Callable[[str, Any], dict[str, Any]] = answer_of
    shuffled: bool = True
    missing: set[str] = field(default_factory=set)
    ranges: bool = True
    late: int = 0
    now: Callable[[], float] = time.time
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    _polled: Counter[str] = field(default_factory=Counter)

    def requests(self, batch_id: str) -> list[dict[str, Any]]:
        """The requests of a batch, as its file has them."""
        _, content = self.files[self.batches[batch_id]["input_file_id"]]
        return [json.loads(line) for line in content.decode().split("\n") if line]

    @property
    def asked(self) -> Counter[str]:
        """How often each request is in a batch that was not refused."""
        return Counter(
            line["custom_id"]
            for key, batch in self.batches.items()
            if batch["status"] != "failed"
            for line in self.requests(key)
        )

    def upload(self, content_type: str, raw: bytes) -> tuple[int, dict[str, Any]]:
        head = f"content-type: {content_type}\r\n\r\n".encode()
        parsed = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + raw)
        for part in parsed.iter_parts():
            name = part.get_filename()
            if name:
                content = part.get_payload(decode=True)
                assert isinstance(content, bytes)
                return 200, self._file(str(name), content)
        return 400, {"error": {"message": "no file"}}

    def _file(self, name: str, content: bytes) -> dict[str, Any]:
        file_id = f"file-{len(self.files) + 1}"
        self.files[file_id] = name, content
        return self.file_object(file_id)

    def file_object(self, file_id: str) -> dict[str, Any]:
        name, content = self.files[file_id]
        return {
            "id": file_id, "object": "file", "bytes": len(content), "filename": name,
            "created_at": int(self.now()), "purpose": "batch", "status": "processed",
        }  # fmt: skip

    def create(self, body: Any) -> tuple[int, dict[str, Any]]:
        if body["input_file_id"] not in self.files:
            return 400, {"error": {"message": "no such file", "type": "invalid_request_error"}}
        batch_id = f"batch_{len(self.batches) + 1}"
        self.batches[batch_id] = {
            "id": batch_id, "object": "batch", "endpoint": body["endpoint"], "status": "validating",
            "input_file_id": body["input_file_id"], "completion_window": body["completion_window"],
            "created_at": int(self.now()), "metadata": body.get("metadata"),
            "output_file_id": None, "error_file_id": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }  # fmt: skip
        return 200, self.batches[batch_id]

    def listed(self, found: list[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
        newest = found[::-1]
        ids = [one["id"] for one in newest]
        start = ids.index(after) + 1 if after else 0
        page = newest[start : start + limit]
        return {"object": "list", "data": page, "has_more": start + limit < len(newest)}

    def poll(self, batch_id: str) -> tuple[int, dict[str, Any]]:
        batch = self.batches.get(batch_id)
        if batch is None:
            return 404, {"error": {"message": f"No batch found with id '{batch_id}'."}}
        self._polled[batch_id] += 1
        if batch["status"] in ("validating", "in_progress", "cancelling"):
            if self._polled[batch_id] > self.polls or batch["status"] == "cancelling":
                self.end(batch_id)
            else:
                batch["status"] = "in_progress"
        elif self.late > 0:
            self.late -= 1
            return 200, batch | {"output_file_id": None, "error_file_id": None}
        return 200, batch

    def end(self, batch_id: str) -> None:
        batch = self.batches[batch_id]
        status = "cancelled" if batch["status"] == "cancelling" else self.ending
        if status == "failed":
            batch["status"] = status
            found = {"code": "invalid_json_line", "message": "line 1 is no JSON", "line": 1}
            batch["errors"] = {"object": "list", "data": [found]}
            return
        requests = self.requests(batch_id)
        count = int(len(requests) * self.done)
        done, left = requests[:count], requests[count:]
        lines = [self.result(line["custom_id"], line["body"]) for line in done]
        code = {"expired": "batch_expired", "cancelled": "batch_cancelled"}.get(status)
        if code:
            lines += [failure_of(line["custom_id"], code, "it was not done") for line in left]
        lines = [line for line in lines if line["custom_id"] not in self.missing]
        if self.shuffled:
            random.Random(batch_id).shuffle(lines)
        bad = [line for line in lines if line["error"] or line["response"]["status_code"] != 200]
        good = [line for line in lines if line not in bad] if bad else lines
        for name, some in (("output_file_id", good), ("error_file_id", bad)):
            if some:
                text = "".join(json.dumps(line) + "\n" for line in some)
                batch[name] = self._file(f"{name}.jsonl", text.encode())["id"]
        batch["request_counts"] = {
            "total": len(requests), "completed": len(good), "failed": len(bad),
        }  # fmt: skip
        batch["status"] = status  # at last: another thread may be asked meanwhile

    def cancel(self, batch_id: str) -> tuple[int, dict[str, Any]]:
        batch = self.batches[batch_id]
        if batch["status"] in ("validating", "in_progress", "finalizing"):
            batch["status"] = "cancelling"
        return 200, batch
