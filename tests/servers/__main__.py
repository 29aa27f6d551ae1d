"""`python -m tests.servers NAME…`: 23 steps with each real server named; prints one table.

Installs what is not installed yet, each in a folder of its own (some 600 MB for litellm, 100 for ogx and
llamacpp, 1,500 for transformers, 3,500 for vllm). A step that fails says what was seen instead. Ends with 1 if any failed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from bgmagic.local import weights
from tests.servers import litellm, llamacpp, ogx, transformers_serve, vllm
from tests.servers.serving import Recipe, Running
from tests.servers.steps import STEPS, Fails, Trial, short

SERVERS: dict[str, Recipe] = {
    "litellm": litellm.RECIPE,
    "ogx": ogx.RECIPE,
    "vllm": vllm.RECIPE,
    "llamacpp": llamacpp.RECIPE,
    "transformers": transformers_serve.RECIPE,
}
# What stands behind another must be there, too.
NEEDS = {"litellm": ("llamacpp",), "ogx": ("llamacpp",)}


@dataclass(frozen=True)
class Result:
    """What came of one step."""

    step: str
    holds: bool
    said: str
    seconds: float

    @property
    def cell(self) -> str:
        """Itself in the table."""
        return ("yes" if self.holds else "**NO**") + (f": {self.said}" if self.said else "")


def installed(name: str, folder: Path) -> Path:
    """The server's folder, filled first if it is not there; one that an install left half is made anew."""
    recipe, target = SERVERS[name], folder / name
    for needed in NEEDS.get(name, ()):
        installed(needed, folder)
    mark = target / "installed"
    if not mark.is_file() or mark.read_text() != recipe.version:
        shutil.rmtree(target, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{name}: installing {recipe.version} into {target}", file=sys.stderr, flush=True)
        begun = time.monotonic()
        recipe.install(target)
        mark.write_text(recipe.version)
        print(f"{name}: installed in {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return target


def tried(name: str, folder: Path, steps: list[str], exchanges: Path | None) -> list[Result]:
    """The steps with one server, and what its proxy counted."""
    running = Running(SERVERS[name], installed(name, folder))
    with tempfile.TemporaryDirectory() as scratch:
        running.start()
        try:
            trial = Trial(running, Path(scratch))
            results = [_done(name, trial, step, exchanges) for step in steps]
            return [*results, _counted(running)]
        finally:
            running.close()


def _done(name: str, trial: Trial, step: str, exchanges: Path | None) -> Result:
    begun, seen = time.monotonic(), len(trial.running.proxy.exchanges)
    try:
        holds, said = True, STEPS[step](trial)
    except Fails as failure:
        holds, said = False, str(failure)
    except (AssertionError, TimeoutError) as failure:
        holds, said = False, short(f"{type(failure).__name__} {failure}")
    result = Result(step, holds, said, time.monotonic() - begun)
    print(f"{name}: {step}: {result.cell} ({result.seconds:.1f} s)", file=sys.stderr, flush=True)
    if exchanges is not None:
        exchanges.mkdir(parents=True, exist_ok=True)
        with (exchanges / f"{name}.jsonl").open("a") as file:
            file.writelines(one.line(step) + "\n" for one in trial.running.proxy.exchanges[seen:])
    return result


def _counted(running: Running) -> Result:
    creates, twice = running.proxy.creates(), running.proxy.accepted_twice()
    accepted = sum(one.status is not None and one.status < 300 for one in creates)
    said = f"{len(creates)} sent, {accepted} accepted, {twice or 'none'} twice"
    return Result("creates", not twice, said, 0.0)


def table(results: dict[str, list[Result]]) -> str:
    """All servers side by side, in Markdown."""
    recipes = [SERVERS[name] for name in results]
    lines = [
        ["step", *(recipe.title for recipe in recipes)],
        ["---"] * (len(results) + 1),
        ["tried", *(f"{recipe.version}, {date.today():%Y-%m-%d}" for recipe in recipes)],
        ["settings", *(recipe.settings for recipe in recipes)],
    ]
    for row in zip(*results.values(), strict=True):
        lines.append([row[0].step, *(result.cell for result in row)])
    total = len(next(iter(results.values())))
    held = [sum(result.holds for result in column) for column in results.values()]
    lines.append(["holds", *(f"{count} of {total}" for count in held)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: list[str] | None = None) -> int:
    """Try what is named."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=__doc__)
    parser.add_argument(
        "names", nargs="+", metavar="NAME", choices=list(SERVERS), help=", ".join(SERVERS)
    )
    parser.add_argument(
        "--folder", type=Path, help="where servers are installed (the user's cache)"
    )
    parser.add_argument(
        "--step", action="append", choices=list(STEPS), help="this one; repeatable (all)"
    )
    parser.add_argument(
        "--exchanges", type=Path, help="a folder for every request and reply, a line of JSON each"
    )
    asked = parser.parse_args(arguments)
    folder = (asked.folder or weights.cache_folder() / "servers").expanduser().absolute()
    exchanges = asked.exchanges.absolute() if asked.exchanges else None
    steps = [step for step in STEPS if step in (asked.step or STEPS)]
    results = {name: tried(name, folder, steps, exchanges) for name in dict.fromkeys(asked.names)}
    print(table(results))
    return 0 if all(one.holds for column in results.values() for one in column) else 1


if __name__ == "__main__":
    sys.exit(main())
