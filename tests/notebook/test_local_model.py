"""%bglocal in a kernel: the pace at which the embedded model can be watched."""

from __future__ import annotations

import pytest

from tests.support.kernels import kernel

WATCH = """
import bgmagic
seen = []
job = bgmagic.submit("Write about the sea.", max_output_tokens=16, poll=0.1)
job.add_listener(lambda job: seen.append(str(job.status)))
"""


@pytest.mark.timeout(200)
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
        assert float(started.value("job.record.started_at - job.record.accepted_at")) > 1.3
        assert float(started.value("job.record.ended_at - job.record.started_at")) > 0.5
        for line, told in {
            "--tokens-per-second 0": "--tokens-per-second '0': it must be a number above 0, as 15",
            "--queue soon": "--queue 'soon' is no duration",
            "off --queue 5": "%bglocal off takes no pace",
            "of": "%bglocal of: allowed are on, off and status",
        }.items():
            wrong = started.run(f"%bglocal {line}")
            assert wrong.said.startswith(f"UsageError: {told}"), wrong.said
            assert len(wrong.said.splitlines()) == 1
        assert "Slowed down" not in started.ok("%bglocal").stdout
        assert "Slowed down" not in started.ok("%bglocal status").stdout
        assert started.value("bgmagic.submission.app.app.local.headers") == "''"
        started.ok("%%bgresponse -o quick --max-output-tokens 16 --poll 0.1 --wait\nWhy?")
        assert started.value("quick.status") == "'incomplete'"


@pytest.mark.timeout(200)
def test_windows_and_a_full_flex_tier(embedded: dict[str, str]) -> None:
    """The embedded server keeps a job in a window queued for a little; with --flex-refusals the flex
    tier is full at first: the job waits, says so, and is sent again."""
    with kernel(**embedded, BGMAGIC_POLL="0.1", BGMAGIC_MAX_OUTPUT_TOKENS="16") as started:
        ran = started.ok("%load_ext bgmagic\n%bglocal --flex-refusals", limit=120)
        assert "every other job of --tier flex refused at first" in ran.stdout
        started.ok(
            "import bgmagic\ntold = []\njob = bgmagic.submit('Why?', tier='flex')\n"
            "job.add_listener(lambda job: told.append(job.record.trouble or ''))"
        )
        started.ok("%bgwait")
        assert started.value("job.response['service_tier']") == "'flex'"
        assert (
            started.value("[t for t in told if 'the flex tier has no room now' in t] != []")
            == "True"
        )
        started.ok("%%bgresponse -o slow --window 2h --wait\nWhy?")
        assert float(started.value("slow.record.started_at - slow.record.accepted_at")) > 1.5
        assert "No job has cost anything" in started.ok("%bgcost").stdout
