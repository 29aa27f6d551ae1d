"""One measurement in a process of its own: `python -m tests.benchmarks.worker PART '{…}'`.

Prints its figures as a line of JSON. Runs in whichever build is on the path.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def scale(way: str, swarm: dict[str, Any], size: dict[str, Any]) -> dict[str, float]:
    """Many jobs, by one way."""
    from tests.benchmarks.load import Size
    from tests.benchmarks.measures import KEY
    from tests.benchmarks.scale import measure
    from tests.benchmarks.swarm import Swarm
    from tests.benchmarks.ways import WAYS

    os.environ.update(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=swarm["url"])
    if swarm["trusted"] is not None:
        os.environ["SSL_CERT_FILE"] = str(swarm["trusted"])
    trusted = swarm["trusted"] and Path(swarm["trusted"])
    server = Swarm(swarm["url"], swarm["control"], trusted)
    return measure(WAYS[way](), server, Size(**size))


def memory(swarm: dict[str, Any], size: dict[str, Any]) -> dict[str, float]:
    """The memory of a sweep."""
    from tests.benchmarks.load import Size
    from tests.benchmarks.measures import KEY
    from tests.benchmarks.memory import measure
    from tests.benchmarks.swarm import Swarm

    os.environ.update(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=swarm["url"])
    return measure(Swarm(swarm["url"], swarm["control"], None), Size(**size))


def start() -> dict[str, float]:
    """What begins."""
    from tests.benchmarks.starting import figures

    return figures()


def main() -> None:
    """Measure, print, and leave without waiting for threads of other ways that still sleep."""
    part, given = sys.argv[1], json.loads(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BGMAGIC_JOURNAL"] = str(Path(folder) / "journal.sqlite3")
        found = {"scale": scale, "memory": memory, "start": start}[part](**given)
        print(json.dumps(found), flush=True)
        if "bgmagic" in sys.modules:
            manager_of_process().close(10)
    os._exit(0)


def manager_of_process() -> Any:
    """The manager of this process, in whichever file the build has it."""
    for name in ("bgmagic.submission.app", "bgmagic.session"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        return module.app.manager if hasattr(module, "app") else module.session.manager
    raise RuntimeError("there is no manager here")


if __name__ == "__main__":
    main()
