#!/usr/bin/env bash
# Guess: what a cell sets for the session (np.set_printoptions(), np.seterr(), decimal's precision) holds in the cells
#   after it, as it does in a Python session, whatever else is in the cell.
# Reality: not where an `await` is in the cell, before or after it. Such a cell runs in a copy of the kernel's context,
#   and these settings are context variables by now (NumPy 2, decimal): they hold to the end of that cell and are
#   forgotten without a word. What they set before the first such cell stays, and a cell without `await` keeps all.
# Exits with 1 if that changes. Known: ipython/ipykernel#749.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "ipykernel==7.4.0" "ipython==9.18.1" \
  "jupyter_client==8.10.0" "numpy==2.4.6"
cat > "$folder/try.py" <<'PY'
import sys
from importlib.metadata import version

from jupyter_client.manager import start_new_kernel

SET = """import asyncio, decimal, numpy as np
np.set_printoptions(precision=2); np.seterr(over="raise"); decimal.getcontext().prec = 5"""
ASK = 'print(np.array([1.23456]), np.geterr()["over"], decimal.getcontext().prec)'


def session(*cells):
    """What the cells print, one after the other, in a kernel of their own."""
    manager, client = start_new_kernel(kernel_name="python3")
    printed = []
    for cell in cells:
        reply = client.execute_interactive(
            cell, timeout=60, output_hook=lambda message: printed.append(message["content"].get("text")))
        assert reply["content"]["status"] == "ok", reply
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    return [text.strip() for text in printed if text]


print("ipykernel", version("ipykernel"), "numpy", version("numpy"))
kept, lost = "[1.23] raise 5", "[1.23456] warn 28"
seen = {
    "set in a cell": session(SET, ASK),
    "set after an await": session(SET.replace("\n", "\nawait asyncio.sleep(0)\n") + "\n" + ASK, ASK),
    "set before an await": session(SET + "\nawait asyncio.sleep(0)", ASK),
}
for how, printed in seen.items():
    print(f"{how}: {printed}")
expected = {"set in a cell": [kept], "set after an await": [kept, lost], "set before an await": [lost]}
sys.exit(seen != expected)
PY
PATH="$folder/venv/bin:$PATH" "$folder/venv/bin/python" "$folder/try.py"
