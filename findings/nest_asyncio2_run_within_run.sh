#!/usr/bin/env bash
# Guess: nest_asyncio2 lets asyncio.run() be called where a loop runs already, and the inner call does there what it does
#   elsewhere: it returns when its coroutine has ended, with the tasks that this one left cancelled, and the
#   context of the caller unchanged.
# Reality: the inner call has no loop of its own. What it left behind runs on in the outer loop, long after it returned. Two
#   inner calls in two tasks end in reverse order: the one that began first returns only when the later one has, however
#   much sooner its coroutine ended, and so does a gather() of them. The context of the caller is left alone as guessed.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "nest-asyncio2==1.7.4"
"$folder/venv/bin/python" - <<'PY'
import asyncio
import contextvars
import sys
from importlib.metadata import version

NAME = contextvars.ContextVar("NAME", default="outer")


async def background(events):
    try:
        await asyncio.sleep(0.2)
        events.append("ran on")
    except asyncio.CancelledError:
        events.append("cancelled")
        raise


async def leaves_a_task(events):
    NAME.set("inner")
    leaves_a_task.kept = asyncio.create_task(background(events))
    await asyncio.sleep(0)


async def within(events):
    asyncio.run(leaves_a_task(events))
    events.append("returned")
    await asyncio.sleep(0.5)
    return NAME.get()


async def in_turn(name, seconds, order):
    async def inner():
        await asyncio.sleep(seconds)
        order.append(f"{name} ended")

    asyncio.run(inner())
    order.append(f"{name} returned")


async def two(order):
    await asyncio.gather(in_turn("first", 0.1, order), in_turn("second", 0.4, order))


plain, nested, order = [], [], []
asyncio.run(leaves_a_task(plain))
plain.append("returned")

import nest_asyncio2  # noqa: E402

nest_asyncio2.apply()
name = asyncio.run(within(nested))
asyncio.run(two(order))
print("Python", *sys.version_info[:3], "nest_asyncio2", version("nest_asyncio2"))
print("a task left by asyncio.run():", plain, "; by one within another:", nested, "; context after it:", name)
print("two within another:", order)
expected = ["first ended", "second ended", "second returned", "first returned"]
sys.exit(
    plain != ["cancelled", "returned"] or nested != ["returned", "ran on"] or name != "outer" or order != expected
)
PY
