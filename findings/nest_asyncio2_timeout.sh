#!/usr/bin/env bash
# Guess: once nest_asyncio2 is applied, `asyncio.timeout()` and `TaskGroup` hold for a block that calls asyncio.run() as for
#   one that awaits: it is cut short, or raises TimeoutError as it ends. `asyncio.wait_for()` does.
# Reality: the limit cancels the task, which is not waiting but running an inner loop: the block runs to its end and raises
#   nothing, late as it is. Up to Python 3.12 the cancellation is still there then, and meets the next `await` of the same
#   task, however far from the block, as CancelledError; since 3.13 it is dropped. The body of a TaskGroup runs on, too,
#   when a task of it has failed; the group raises at its end, and up to 3.12 the next `await` after it is cancelled.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "nest-asyncio2==1.7.4"
"$folder/venv/bin/python" - <<'PY'
import asyncio
import sys
from importlib.metadata import version

import nest_asyncio2


async def next_await():
    """What the first await after a block meets."""
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        return "CancelledError"
    return "nothing"


async def timeout():
    try:
        async with asyncio.timeout(0.1):
            asyncio.run(asyncio.sleep(0.3))
        raised = "nothing"
    except TimeoutError:
        raised = "TimeoutError"
    return raised, await next_await()


async def failing():
    await asyncio.sleep(0.1)
    raise ValueError


async def group():
    ran_on = False
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(failing())
            asyncio.run(asyncio.sleep(0.3))
            ran_on = True
        raised = "nothing"
    except* ValueError:
        raised = "ValueError"
    return ran_on, raised, await next_await()


def each(coroutine):
    """Run it in a loop of its own."""
    nest_asyncio2.apply()
    return asyncio.run(coroutine)


print("Python", *sys.version_info[:3], "nest_asyncio2", version("nest_asyncio2"))
seen_timeout, seen_group = each(timeout()), each(group())
print(f"timeout(): the block raised {seen_timeout[0]}; the next await met {seen_timeout[1]}")
print("TaskGroup: the body ran on: {}; it raised {}; the next await met {}".format(*seen_group))
met = "CancelledError" if sys.version_info < (3, 13) else "nothing"
sys.exit(seen_timeout != ("nothing", met) or seen_group != (True, "ValueError", met))
PY
