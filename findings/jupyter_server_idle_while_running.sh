#!/usr/bin/env bash
# Guess: a kernel whose cell runs is "busy" for Jupyter Server until the cell has ended, whatever else it is asked
#   meanwhile: the pages' list of running kernels says so, and culling of idle kernels (cull_idle_timeout), which spares
#   busy ones, leaves a cell of hours alone when the browser is closed.
# Reality: the state is what the last message about it said, for whichever request. A request on the control channel is
#   answered at once and ends with "idle", and so does the kernel, for the server, while its cell computes on. A list
#   leaves some kinds out (kernel_info, debug); create_subshell_request, by which JupyterLab keeps widgets alive beside
#   a long cell, is none of them. From then on the kernel counts as idle and is culled in the middle of the cell.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "jupyter_server==2.21.1" "ipykernel==7.4.0"

cat > "$folder/look.py" <<'PY'
import asyncio, sys
from importlib.metadata import version
from pathlib import Path

from jupyter_server.serverapp import ServerApp

beats = Path(sys.argv[1], "beats")
CELL = f"""
import time
while True:
    with open({str(beats)!r}, "a") as file:
        file.write(".")
    time.sleep(0.1)
"""


async def main(root: str) -> list:
    app = ServerApp()
    app.initialize(["--no-browser", "--allow-root", f"--ServerApp.root_dir={root}", "--port=0"], new_httpserver=False)
    kernels = app.kernel_manager
    kernel_id = await kernels.start_kernel()
    client = kernels.get_kernel(kernel_id).client()
    client.start_channels()
    await client.wait_for_ready(timeout=240)

    async def until(true) -> bool:
        for _ in range(2400):
            if true():
                return True
            await asyncio.sleep(0.1)
        return False

    def state() -> str:
        return kernels.kernel_model(kernel_id)["execution_state"]

    async def is_culled() -> bool:
        """Whether the server ends the kernel as it ends each that did nothing for a second."""
        kernels.cull_idle_timeout = 1
        await asyncio.sleep(2)
        await kernels.cull_kernels()
        return kernel_id not in kernels

    client.execute(CELL)
    await until(lambda: state() == "busy" and beats.exists())
    seen = [("while the cell runs", state(), await is_culled())]
    client.control_channel.send(client.session.msg("create_subshell_request"))
    answer = (await client.get_control_msg(timeout=240))["content"]["status"]
    await until(lambda: state() != "busy")
    said, so_far = state(), beats.stat().st_size
    runs = await until(lambda: beats.stat().st_size > so_far)
    seen.append((f"create_subshell_request was answered ({answer}), the cell runs: {runs}", said, await is_culled()))
    client.stop_channels()
    await kernels.shutdown_all()
    return seen


print("jupyter_server", version("jupyter_server"), "ipykernel", version("ipykernel"))
seen = asyncio.run(main(sys.argv[1]))
for when, state, culled in seen:
    print(f"{when}: {state}, {'culled' if culled else 'spared by culling'}")
answered = "create_subshell_request was answered (ok), the cell runs: True"
sys.exit(seen != [("while the cell runs", "busy", False), (answered, "idle", True)])
PY
mkdir "$folder/root"
export JUPYTER_CONFIG_DIR="$folder/config" JUPYTER_RUNTIME_DIR="$folder/runtime" JUPYTER_DATA_DIR="$folder/data"
export IPYTHONDIR="$folder/ipython"
"$folder/venv/bin/python" "$folder/look.py" "$folder/root" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
