"""Windows, prices, receipts and the budget in real kernels: what their user reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.display.test_frontend import updates
from tests.support.kernels import Kernel, kernel
from tests.support.scripted import ScriptedServer, response

USAGE = {"input_tokens": 100_000, "output_tokens": 90_000}  # a dollar at these prices
PRICES = '%config BgMagics.prices = {"gpt-5.2": {"input": 1, "output": 10}}'
BOUND = "--max-output-tokens 100000"  # at most a dollar, and a little for the request


@pytest.fixture
def priced(server: ScriptedServer) -> ScriptedServer:
    """A server whose every answer costs a dollar."""
    server.ending = lambda rid, body: response(rid, "completed", "x", usage=USAGE)
    return server


def sent(server: ScriptedServer) -> list[dict[str, object]]:
    return [one.body for one in list(server.seen) if one.kind == "create"]


def test_windows_and_receipts(in_kernel: Kernel, priced: ScriptedServer) -> None:
    """A window is sent and paid for at its price; %config has a default that a stream on the line
    switches off; a conversation keeps its id; %bgcost tells all of it, as a table and as text."""
    notebook = in_kernel
    notebook.ok(PRICES)
    notebook.ok("%%bgresponse -o a --window 2h\nWhy?")
    notebook.ok("%bgwait a")
    notebook.ok("%%bgresponse -c a --window 2h\nAnd then?")
    notebook.ok("%bgwait a")
    notebook.ok("%config BgMagics.window = '8h'")
    notebook.ok("%%bgresponse -o b\nAnother.")
    notebook.ok("%bgwait b")
    notebook.ok("%%bgresponse -o c --tier flex\nOne more.")
    notebook.ok("%bgwait c")
    first, follow_up, another, flex = sent(priced)
    assert first["background_options"] == follow_up["background_options"]
    assert another["background_options"] != first["background_options"]
    assert another["background_options"]["completion_window"] == "8h"  # type: ignore[index]
    assert "background_options" not in flex
    assert flex["service_tier"] == "flex"
    assert notebook.value("(a.job.price, b.job.price, c.job.price)") == "(0.7, 0.6, None)"
    (shown,) = notebook.ok("%bgcost").displays
    rows = [row.split("  ") for row in shown["text/plain"].splitlines()]
    told = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    # Without a notebook a row begins with the folder.
    of_models = [row[row.index("gpt-5.2") :] for row in told if "gpt-5.2" in row]
    assert ["gpt-5.2", "2h", "2", "200,000", "180,000", "$1.40", "$0.60"] in of_models
    assert ["gpt-5.2", "8h", "1", "100,000", "90,000", "$0.60", "$0.40"] in of_models
    assert ["in all", "4", "400,000", "360,000", "$2.00", "$1.00", "1"] in told
    assert "<table>" in shown["text/html"]
    assert "<td>$1.40</td>" in shown["text/html"]
    assert "allowed are today, 7d, all" in notebook.run("%bgcost yesterday").said
    # It is shown anew once what is open has ended.
    priced.polls = 10_000
    notebook.ok("%%bgresponse -o d --quiet --poll 0.1\nLonger.")
    notebook.until("d.response_id")
    (shown,) = notebook.ok("%bgcost").displays
    assert "<td>$1.20</td>" not in shown["text/html"]
    priced.polls = 0
    assert "<td>$1.20</td>" in updates(notebook, 1)[-1]["data"]["text/html"]
    assert notebook.value(
        "[round(p, 2) for p in __import__('bgmagic').costs()['price'].dropna()]"
    ) == ("[0.7, 0.7, 0.6, 0.6]")


def test_what_excludes_what_is_one_line(in_kernel: Kernel, server: ScriptedServer) -> None:
    """Wrong windows, tiers, prices and budgets are one line each, and nothing is sent."""
    for cell, says in {
        "%%bgresponse --window 2h --stream\nWhy?": "--window 2h can't be streamed",
        "%%bgresponse --window 8h --tier flex\nWhy?": "leave out --tier flex or --window",
        "%%bgresponse --window 3h\nWhy?": "'3h' is not one of soonest, 2h, 8h",
        "%%bgresponse --tier cheap\nWhy?": "'cheap' is not one of flex, default, priority",
        "%%bgresponse --n 2 --window 2h --stream\nWhy?": "--window 2h can't be streamed",
        "%config BgMagics.budget = '20'": 'as "20/day"',
        "%config BgMagics.prices = {'m': 5}": "give its prices as",
        "%config BgMagics.confirm_above_dollars = -1": "must be a number above 0",
    }.items():
        ran = in_kernel.run(cell)
        assert says in ran.said, cell
        assert "Traceback" not in ran.said
    assert server.count("create") == 0


def test_a_dear_cell_asks_first(in_kernel: Kernel, priced: ScriptedServer) -> None:
    """--dry-run quotes; above the dollars of %config a cell, and a sweep, need --yes with their number;
    what is cheaper does not."""
    notebook = in_kernel
    notebook.ok(PRICES)
    quoted = notebook.ok(f"%%bgresponse --dry-run {BOUND}\nWhy?").stdout
    assert (
        "at most 100,000 come out: it can cost $1.00 as it is, $0.70 in 2h, $0.60 in 8h" in quoted
    )
    notebook.ok("def look(word: str) -> str:\n    'Look.'\n    return word")
    quoted = notebook.ok(f"%%bgresponse --dry-run --tool $look --max-rounds 4 {BOUND}\nWhy?").stdout
    assert (
        "in 8h.\nThat is for one request: its functions may be called in up to 4 rounds" in quoted
    )
    notebook.ok("%config BgMagics.confirm_above_dollars = 0.5")
    for cell, says in {
        f"%%bgresponse {BOUND}\nWhy?": "this can cost $1.00, and BgMagics.confirm_above_dollars is 0.5",
        f"%%bgresponse --n 3 {BOUND}\nWhy?": "these are 3 jobs: at most $3.00 for output",
        "%%bgresponse -m dream-9\nWhy?": "this has no known price",
    }.items():
        assert says in notebook.run(cell).said, cell
    assert priced.count("create") == 0
    notebook.ok(f"%%bgresponse -o a --yes 1 {BOUND}\nWhy?")
    notebook.ok(f"%%bgresponse -o b --n 3 --yes 3 {BOUND}\nWhy?")
    notebook.ok("%%bgresponse -o c --max-output-tokens 1000\nShort.")
    notebook.ok("%bgwait")
    assert priced.count("create") == 5


def test_a_budget_of_all_kernels(
    priced: ScriptedServer, lasting: dict[str, str], tmp_path: Path
) -> None:
    """What an earlier kernel has paid is missing in the next one's budget: a cell that could go over it
    is refused in one line, --over-budget sends it, and a sweep stops at the line."""
    with kernel(**lasting) as one:
        one.ok("%load_ext bgmagic")
        one.ok(PRICES)
        one.ok(f"%%bgresponse -o a {BOUND}\nWhy?")
        one.ok("%bgwait a")
    with kernel(**lasting, BGMAGIC_BUDGET="3.5/day") as two:
        two.ok("%load_ext bgmagic")
        two.ok(PRICES)
        two.ok(f"%%bgresponse -o b --n 4 {BOUND}\n Say b.")
        two.until("b.counts.get('completed') == 2")
        two.until("'waiting' in b.counts and b.jobs[-1].record.trouble is not None or "
                  "any('budget' in (j.record.trouble or '') for j in b.jobs)")  # fmt: skip
        assert two.value("b.counts") == "{'completed': 2, 'waiting': 2}"
        waited = two.run("%bgwait b --timeout 0.1").said
        assert "2 completed, 2 waiting" in waited
        assert re.search(r"b\[\d\]: not sent: .*the budget of \$3.50/day", waited)
        refused = two.run(f"%%bgresponse -o c {BOUND}\nAnd this?")
        assert "this can cost $1.00, and the budget of $3.50/day has $" in refused.said
        assert "--over-budget sends it all the same" in refused.said
        assert priced.count("create") == 3
        two.ok(f"%%bgresponse -o c --over-budget {BOUND}\nAnd this?")
        two.ok("%bgwait c")
        assert priced.count("create") == 4
        assert "The budget is $3.50/day." in two.ok("%bgcost").displays[0]["text/plain"]
        two.ok("%bgcancel b")


def test_a_conversation_that_still_runs_keeps_its_place(
    in_kernel: Kernel, priced: ScriptedServer
) -> None:
    """A follow-up to a turn that still runs has the id of the first turn, as has the one after it."""
    priced.polls = 10**6
    in_kernel.ok("%%bgresponse -o a --window 2h\nWhy?")
    in_kernel.ok("%%bgresponse -c a -o b --window 2h\nAnd then?")
    in_kernel.ok("%%bgresponse -c b -o c --window 2h\nAnd after that?")
    in_kernel.until("a.response_id")
    priced.polls = 0
    in_kernel.ok("%bgwait")
    assert len({one["background_options"]["continuation_id"] for one in sent(priced)}) == 1  # type: ignore[index]
    assert priced.count("create") == 3
