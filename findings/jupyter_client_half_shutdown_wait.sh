#!/usr/bin/env bash
# Guess: a kernel that is asked to shut down, or to restart, has `shutdown_wait_time`, 5.0 s by default, to end by
#   itself; what it does at its end (atexit: files, connections, locks) may take four.
# Reality: it has half of that. After 2.5 s jupyter_client sends SIGTERM, and a Python kernel, which has no handler for
#   it, is gone at once, in the midst of atexit; the other half is for kernels that SIGTERM does not end.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "jupyter_client==8.10.0" "ipykernel==7.4.0"
cat > "$folder/try.py" <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

from jupyter_client.manager import start_new_kernel

END = """
import atexit, time

def end():
    begun = time.monotonic()
    with open("seconds", "w", buffering=1) as file:
        while time.monotonic() - begun < 4:
            print(time.monotonic() - begun, file=file)
            time.sleep(0.05)
        print("whole", file=file)

atexit.register(end)
"""

manager, client = start_new_kernel()
client.execute(END, reply=True, timeout=60)
client.stop_channels()
manager.shutdown_kernel()
last = Path("seconds").read_text().split()[-1]
print("jupyter_client", version("jupyter_client"), "shutdown_wait_time", manager.shutdown_wait_time)
print("a function of atexit that takes 4 s was at:", last)
sys.exit(0 if manager.shutdown_wait_time == 5.0 and last != "whole" and float(last) < 3.5 else 1)
PY
cd "$folder"
export JUPYTER_CONFIG_DIR="$folder/config" JUPYTER_RUNTIME_DIR="$folder/runtime" JUPYTER_DATA_DIR="$folder/data"
export IPYTHONDIR="$folder/ipython"
"$folder/venv/bin/python" "$folder/try.py" 2> errors || { cat errors; exit 1; }
