"""%bglocal in a kernel: the pace at which the embedded model can be watched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgmagic.local import discovery
from tests.conftest import KEY
from tests.support.kernels import Kernel, kernel
from tests.support.scripted import Script, ScriptedServer, response

WATCH = """
import bgmagic
seen = []
job = bgmagic.submit("Write about the sea.", max_output_tokens=40, poll=0.1)
job.add_listener(lambda job: seen.append(str(job.status)))
"""


def test_pace(embedded: dict[str, str]) -> None:
    """With a pace each status can be seen, for as long as was asked; %bglocal alone takes it back, %bglocal status tells it, and a wrong pace is one line."""
    with kernel(**embedded) as started:
        ran = started.ok(
            "%load_ext bgmagic\n%bglocal --tokens-per-second 20 --queue 1.5", limit=120
        )
        assert "at most 20 tokens a second, 1.5 s in the queue first" in ran.stdout
        assert "1.5 s in the queue first" in started.ok("%bglocal status").stdout
        started.ok(WATCH)
        started.ok("%bgwait")
        seen = started.value("seen").strip("[]").replace("'", "").split(", ")
        assert sorted(set(seen), key=seen.index)[-3:] == ["queued", "in_progress", "incomplete"]
        assert float(started.value("job.record.started_at - job.record.accepted_at")) > 1.0
        assert float(started.value("job.record.ended_at - job.record.started_at")) > 0.5
        for line, told in {
            "--tokens-per-second 0": "--tokens-per-second '0': it must be a number above 0, as 15",
            "--queue soon": "--queue 'soon' is no duration",
            "off --queue 5": "%bglocal off takes no pace",
            "of": "%bglocal of: allowed are on, off, status, and an address as http://host:8000/v1",
            "--model nowhere.gguf": "--model ",
            "--threads none": "--threads 'none': it must be a whole number, 1 or more",
            "--context 0": "--context 0 is too small",
            "off --threads 2": "%bglocal off takes no --threads",
            "--parallel 2": "SmolLM2-135M-Instruct runs already with --parallel 1",
        }.items():
            wrong = started.run(f"%bglocal {line}")
            assert wrong.said.startswith(f"UsageError: {told}"), wrong.said
            assert len(wrong.said.splitlines()) == 1
        assert "Slowed down" not in started.ok("%bglocal").stdout
        assert "Slowed down" not in started.ok("%bglocal status").stdout
        assert started.value("bgmagic.submission.app.app.local.headers") == "''"
        started.ok("%%bgresponse -o quick --max-output-tokens 16 --poll 0.1 --wait\nWhy?")
        assert started.value("quick.status") == "'incomplete'"


def test_a_server_that_was_killed(embedded: dict[str, str]) -> None:
    """The embedded server is killed while it has a job and a batch: they say so, and are lost once
    another one runs, which can be asked again."""
    with kernel(**embedded) as started:
        started.ok("%load_ext bgmagic\n%bglocal --queue 1h", limit=120)
        started.ok("words = ['a', 'b']")
        started.ok("%%bgresponse -o one --poll 0.1\nWhy?")
        started.ok("%%bgresponse -o both --each words --batch --poll 0.1\nSay {{ item }}")
        started.until("one.running() and both.running()")
        started.ok(
            "import os, signal; from bgmagic.local import discovery\n"
            "os.kill(discovery.find_all()[0].pid, signal.SIGKILL)"
        )
        started.until("'the poll failed' in str(both.jobs[0].record.trouble)")
        started.ok("%bglocal", limit=120)
        started.until("both.done() and one.done()")
        assert started.value("(both.counts, one.status)") == "({'lost': 2}, 'lost')"
        started.ok("more = both.retry_failed()")
        started.until("both.counts.get('lost') is None and both.done()")
        assert started.value("bool(both[0])") == "True"


def test_a_model_of_ones_own(gguf: Path, embedded: dict[str, str], tmp_path: Path) -> None:
    """%bglocal --model runs a GGUF file with the settings that are asked for, beside the small model's server; the bug report names both."""
    own = tmp_path / "tiny-own.gguf"
    own.symlink_to(gguf)
    try:
        with kernel(**embedded) as started:
            started.ok("%load_ext bgmagic\n%bglocal", limit=120)
            line = f"%bglocal --model {own} --threads 1 --parallel 2 --context 1024"
            assert "Jobs now go to tiny-own" in started.ok(line, limit=120).stdout
            started.ok("%%bgresponse -o x --max-output-tokens 16 --poll 0.1 --wait\nWhy?")
            assert started.value("x.status") == "'incomplete'"
            told = started.ok("%run -m bgmagic").stdout
            assert "running SmolLM2-135M-Instruct at http://127.0.0.1:" in told
            (row,) = [row for row in told.splitlines() if "running tiny-own" in row]
            assert row.endswith("(--threads 1 --parallel 2 --context 1024)")
    finally:
        discovery.stop(own)


MODELS = Script(json={"data": [{"id": "qwen3-8b"}, {"id": "other"}]})
USUAL = "http://127.0.0.1:9/v1"


@pytest.fixture
def elsewhere(server: ScriptedServer) -> Iterator[Kernel]:
    """A kernel whose usual server is not there, with a key and a header that are only for that."""
    server.by_id["models"] = MODELS
    usual = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": USUAL, "OPENAI_CUSTOM_HEADERS": "X-Own: 1"}
    with kernel(**usual, BGMAGIC_POLL="0.1") as started:
        started.ok("import bgmagic\n%load_ext bgmagic")
        yield started


def test_a_server_somebody_runs(elsewhere: Kernel, server: ScriptedServer) -> None:
    """%bglocal URL says in one line which models are there and that background mode works; cells without -m then ask for the first, nothing of the environment goes there, and off goes back."""
    ran = elsewhere.ok(f"%bglocal {server.base_url}/")
    (line,) = ran.stdout.splitlines()
    assert line.startswith(f"Jobs now go to {server.base_url}, which has qwen3-8b, other; ")
    assert re.search(r"background mode works \(a short job: \d+ s\)", line)
    assert "Cells without -m ask for qwen3-8b" in line
    elsewhere.ok("%%bgresponse -o x --wait\nWhy?")
    assert elsewhere.value("str(x)") == "'the answer'"
    elsewhere.ok("%%bgresponse -o y -m other --wait\nWhy?")
    posted = [seen.body for seen in server.seen if seen.kind == "create"]
    assert [body["model"] for body in posted] == ["qwen3-8b", "qwen3-8b", "other"]
    assert all(body["background"] is True and "store" not in body for body in posted)
    # Some servers stream otherwise; of a cell's that is understood (tests/transport/test_streaming.py).
    assert [body.get("stream") for body in posted] == [False, None, None]
    assert KEY not in str([seen.headers for seen in server.seen])
    assert not any("x-own" in seen.headers for seen in server.seen)
    assert f"jobs go to {server.base_url}." in elsewhere.ok("%bglocal status").stdout
    assert elsewhere.ok("%bglocal off").stdout == "Jobs go to your own server again.\n"
    assert elsewhere.value("bgmagic.submission.app.app.destination().address") == repr(USUAL)
    assert "gpt-5.2" in elsewhere.ok("%%bgresponse --dry-run\nWhy?").stdout


def test_what_a_server_can_not_do(elsewhere: Kernel, server: ScriptedServer) -> None:
    """A server that answers only at the end is used, and said to; one that refuses background mode, wants a key, has no model, fails, answers nonsense or is not there is one line, and jobs go on to where they went."""
    done = Script(json=response("resp_9", "completed", "OK"))
    server.enqueue("create", done)
    said = elsewhere.ok(f"%bglocal {server.base_url}").stdout
    assert "; it answers only when it is done, without background mode" in said
    assert server.count("retrieve") == 1  # the models
    elsewhere.ok("%bglocal off")

    def refusal(code: int, body: Any) -> Script:
        return Script(status=code, json=body)

    failed = response("resp_9", "failed", error={"code": "server_error", "message": "no memory"})
    told = {"error": {"message": "background requires store"}}
    cases: list[tuple[str, Script, str]] = [
        ("create", refusal(400, told), "HTTP 400: background requires store; vLLM needs VLLM_"),
        ("create", Script(json=failed), "a short job of qwen3-8b ended as failed: no memory"),
        ("create", Script(reset="after"), "broke off"),
        ("models", refusal(404, {"detail": "Not Found"}), "Not Found; an address mostly ends in"),
        ("models", refusal(401, {"error": "no"}), "HTTP 401: no; %bglocal sends no key"),
        ("models", Script(json={"data": []}), "names no model"),
        ("models", Script(body=b"<html>"), "is no JSON object: is it an API?"),
    ]
    for kind, script, words in cases:
        server.by_id["models"] = script if kind == "models" else MODELS
        if kind != "models":
            server.enqueue(kind, script)
        wrong = elsewhere.run(f"%bglocal {server.base_url}")
        assert wrong.said.startswith("UsageError: "), wrong.said
        assert words in wrong.said
        assert len(wrong.said.splitlines()) == 1
    for url, words in {
        USUAL: f"nothing answers at {USUAL}/models: ",
        "http://": "%bglocal 'http://' is no address",
        "http://me:secret1@host/v1": "%bglocal http://host/v1: without a password",
        f"{USUAL} --threads 2": f"%bglocal {USUAL} takes no --threads",
    }.items():
        wrong = elsewhere.run(f"%bglocal {url}")
        assert wrong.said.startswith(f"UsageError: {words}"), wrong.said
        assert "secret1" not in wrong.said
    assert elsewhere.value("bgmagic.submission.app.app.destination().address") == repr(USUAL)


def test_windows_and_a_full_flex_tier(embedded: dict[str, str]) -> None:
    """The embedded server keeps a job in a window queued for a little; with --flex-refusals the flex
    tier is full at first: the job waits, says so, and is sent again."""
    with kernel(**embedded, BGMAGIC_POLL="0.1", BGMAGIC_MAX_OUTPUT_TOKENS="16") as started:
        ran = started.ok("%load_ext bgmagic\n%bglocal --flex-refusals", limit=120)
        assert "every other job of --tier flex refused at first" in ran.stdout
        started.ok(
            "import bgmagic\ntold = []\njob = bgmagic.submit('Why?', tier='flex')\n"
            "job.add_listener(lambda job: told.append(job.record.trouble or ''))\n"
            "told.append(job.record.trouble or '')"
        )
        started.ok("%bgwait")
        assert started.value("job.response.service_tier") == "'flex'"
        assert (
            started.value("[t for t in told if 'the flex tier has no room now' in t] != []")
            == "True"
        )
        started.ok("%%bgresponse -o slow --window 2h --wait\nWhy?")
        assert float(started.value("slow.record.started_at - slow.record.accepted_at")) > 1.0
        assert "No job has cost anything" in started.ok("%bgcost").stdout


def test_scripted_calls(embedded: dict[str, str]) -> None:
    """With --calls the embedded server has a cell with functions make these calls first; the kernel runs
    what they name, and the small model answers what came of it, of which it goes on by its id."""
    with kernel(**embedded) as started:
        started.ok("%load_ext bgmagic")
        calls = '[{"name": "depth", "arguments": {"sea": "Baltic Sea"}}]'
        told = started.ok(f"%bglocal --calls '{calls}'").stdout
        assert "A script, for teaching" in told
        started.ok('def depth(sea: str) -> int:\n    "In metres."\n    return 55')
        started.ok("%%bgresponse -o deep --tool $depth --poll 0.1 --wait\nHow deep?")
        assert started.value("[(s.name, s.data, s.output) for s in deep.steps]") == repr(
            [("depth", {"sea": "Baltic Sea"}, "55")]
        )
        assert started.value("bool(deep.conversation.previous_response_id)") == "True"
        wrong = started.run("%bglocal --calls '[{}]'")
        assert "--calls: it must be a list like" in wrong.said
