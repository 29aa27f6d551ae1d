#!/usr/bin/env bash
# Guess: `shutdown_timeout=0` makes aiohttp's web server stop at once, dropping the requests it still has.
# Reality: 0 is read as "no limit": cleanup() waits until the last handler ends of itself, however long
#   that takes. 0.01 stops at once.
# Ends with 1 when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet aiohttp==3.14.5
cat > "$folder/try.py" <<'PY'
import asyncio, sys, time
import aiohttp
from aiohttp import web

WORK = 4.0  # seconds that the handler takes


async def handler(request):
    await asyncio.sleep(WORK)
    return web.Response()


async def cleanup_takes(limit):
    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, shutdown_timeout=limit)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        asked = asyncio.create_task(session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/"))
        await asyncio.sleep(0.5)
        begun = time.monotonic()
        await runner.cleanup()
        taken = time.monotonic() - begun
        await asyncio.gather(asked, return_exceptions=True)
    return taken


print("aiohttp", aiohttp.__version__)
zero, short = asyncio.run(cleanup_takes(0)), asyncio.run(cleanup_takes(0.01))
print(f"a handler has {WORK - 0.5:.1f} s to go; cleanup took {zero:.1f} s with 0, {short:.1f} s with 0.01")
sys.exit(0 if zero > WORK / 2 > short else 1)
PY
"$folder/venv/bin/python" "$folder/try.py"
