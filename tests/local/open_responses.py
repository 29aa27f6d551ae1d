"""The text cases of the Open Responses suite against `front.py`, checked by the published types.

    types/bin/python tests/local/open_responses.py [BASE_URL]

Needs `openresponses-types` and nothing of bgmagic; prints a line a case, and exits with 1 if one is
not valid.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

import openresponses_types as types  # type: ignore[import-not-found,unused-ignore]

BASE_URL = "http://127.0.0.1:4010/v1"


def turn(role: str, content: str) -> dict[str, str]:
    return {"type": "message", "role": role, "content": content}


CASES = {
    "a message": [turn("user", "Greet me in three words.")],
    "a system prompt": [turn("system", "Talk like a sailor."), turn("user", "Greet me.")],
    "earlier turns": [
        turn("user", "I am called Ada."),
        turn("assistant", "Nice to meet you, Ada."),
        turn("user", "What am I called?"),
    ],
}


def ask(base_url: str, **fields: Any) -> str:
    """The body of the reply to a create."""
    request = urllib.request.Request(
        f"{base_url}/responses",
        json.dumps({"model": "gpt-5.2", **fields}).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer any"},
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        said: str = reply.read().decode()
    return said


def event_class(kind: str) -> Any:
    """The published class of an event: response.output_text.delta is ResponseOutputText…"""
    words = kind.replace(".", "_").split("_")
    return getattr(types, "".join(word.capitalize() for word in words) + "StreamingEvent")


def main() -> int:
    base_url = sys.argv[1] if len(sys.argv) > 1 else BASE_URL
    wrong = 0
    for name, turns in CASES.items():
        response = json.loads(ask(base_url, input=turns))
        checked = types.ResponseResource.model_validate(response)
        fine = checked.status == "completed" and bool(checked.output)
        wrong += not fine
        print(f"{name}: {'valid' if fine else 'not completed, or without output'}")
    frames = ask(base_url, input=CASES["a message"], stream=True).strip().split("\n\n")
    events = [json.loads(frame.partition("data: ")[2]) for frame in frames]
    for event in events:
        event_class(event["type"]).model_validate(event)
    wrong += events[-1]["type"] != "response.completed"
    print(f"a stream: {len(events)} events valid, the last is {events[-1]['type']}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
