"""What a `Kernel` of these tests runs in its process: IPython without a terminal, told by lines.

Each line of standard input is a JSON object: ``cell`` is run as a cell of a notebook, ``value`` is
evaluated. The answer is one line of JSON: what was printed, the value, or the error. Standard output
belongs to the answers; what cells print is caught.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from typing import Any


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance(colors="NoColor")
    shell.user_ns["trouble"] = _trouble
    answers.write(json.dumps({"printed": ""}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(_answer(shell, json.loads(line)), default=str) + "\n")


def _answer(shell: Any, asked: dict[str, str]) -> dict[str, Any]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        if "cell" in asked:
            result = shell.run_cell(asked["cell"])
            error = result.error_before_exec or result.error_in_exec
            told = None if error is None else f"{type(error).__name__}: {error}"
            return {"printed": printed.getvalue(), "error": told}
        try:
            return {"value": eval(asked["value"], shell.user_ns)}
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}


def _trouble() -> str | None:
    """What this kernel tells its user about the journal, or None."""
    from tests.simulation import adapter

    return adapter.trouble_of_session()


if __name__ == "__main__":
    main()
