#!/usr/bin/env bash
# Guess: a kernel that Jupyter Server restarts gets the environment that it was started with, as jupyter_client keeps
#   it for that: after its notebook was renamed JPY_SESSION_NAME, by which a kernel knows its notebook, stays the old
#   path until the session is closed.
# Reality: a rename of the session changes what the next process of the kernel is given. The one that runs keeps the
#   old path, a restart alone, in the same session and under the same kernel id, has the new one: what belongs to
#   "this notebook" by that variable is another thing before and after a restart.
# Exits with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "jupyter_server==2.21.1" "ipykernel==7.4.0"

cat > "$folder/look.py" <<'PY'
import asyncio, os, sys

from jupyter_server.serverapp import ServerApp


async def main(root: str) -> None:
    app = ServerApp()
    app.initialize(["--no-browser", "--allow-root", f"--ServerApp.root_dir={root}", "--port=0"], new_httpserver=False)
    sessions, kernels = app.session_manager, app.kernel_manager

    async def name_in_kernel(kernel_id: str) -> str:
        client = kernels.get_kernel(kernel_id).client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        asked = client.execute("", user_expressions={"name": "__import__('os').environ['JPY_SESSION_NAME']"})
        reply = await client.get_shell_msg(timeout=60)
        while reply["parent_header"].get("msg_id") != asked:
            reply = await client.get_shell_msg(timeout=60)
        client.stop_channels()
        return os.path.basename(reply["content"]["user_expressions"]["name"]["data"]["text/plain"].strip("'"))

    session = await sessions.create_session("old.ipynb", "old.ipynb", "notebook", "python3")
    kernel = session["kernel"]["id"]
    names = [await name_in_kernel(kernel)]
    # What a page does when its notebook is renamed.
    app.contents_manager.rename("old.ipynb", "new.ipynb")
    await sessions.update_session(session["id"], path="new.ipynb", name="new.ipynb")
    names.append(await name_in_kernel(kernel))
    await kernels.restart_kernel(kernel)
    names.append(await name_in_kernel(kernel))
    await kernels.shutdown_all()
    print("jupyter_server 2.21.1; JPY_SESSION_NAME at first, after a rename, after a restart of the same kernel")
    print(*names)
    sys.exit(names != ["old.ipynb", "old.ipynb", "new.ipynb"])


asyncio.run(main(sys.argv[1]))
PY
mkdir "$folder/root"
echo '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}' > "$folder/root/old.ipynb"
export JUPYTER_CONFIG_DIR="$folder/config" JUPYTER_RUNTIME_DIR="$folder/runtime" JUPYTER_DATA_DIR="$folder/data"
"$folder/venv/bin/python" "$folder/look.py" "$folder/root" 2> "$folder/errors" || { cat "$folder/errors"; exit 1; }
