"""`python -m bgmagic`: what a bug report needs, and nothing that is secret."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.kernels import kernel
from tests.support.scripted import ScriptedServer

SECRETS = {
    "OPENAI_API_KEY": "sk-one-123456789",
    "OPENAI_ORG_ID": "org-two-123456789",
    "OPENAI_PROJECT_ID": "proj-three-123456789",
    "OPENAI_CUSTOM_HEADERS": "X-Four: four-123456789",
    "AZURE_OPENAI_API_KEY": "az-five-123456789",
    "AZURE_OPENAI_AD_TOKEN": "token-six-123456789",
}


def report(**environment: str) -> str:
    command = [sys.executable, "-m", "bgmagic"]
    ran = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert ran.stderr == ""
    return ran.stdout


def test_report_without_anything(tmp_path: Path) -> None:
    """On a new machine it tells versions, that no key is set, and where a journal would be; it makes none."""
    home = tmp_path / "home"
    said = report(HOME=str(home), BGMAGIC_JOURNAL=str(home / "journal.sqlite3"))
    rows = dict(line.split(maxsplit=1) for line in said.splitlines())
    assert {"bgmagic", "python", "openai", "ipython", "ipykernel", "ipywidgets"} <= set(rows)
    assert rows["server"].startswith("none: no API key")
    assert rows["set"] == "no key"
    assert "BGMAGIC_JOURNAL" in rows["settings"]
    assert rows["journal"].endswith("~/journal.sqlite3, not there yet")
    assert not (home / "journal.sqlite3").exists()


def test_report_holds_no_secret(server: ScriptedServer, tmp_path: Path) -> None:
    """With keys in every place, also in the wrong ones, and jobs in the journal, it names what is set and which jobs are open, and shows no value, prompt or answer."""
    server.polls = 10**6
    where = {"BGMAGIC_JOURNAL": str(tmp_path / "journal.sqlite3")}
    apart = {name: SECRETS[name] for name in ("OPENAI_API_KEY", "OPENAI_CUSTOM_HEADERS")}
    with kernel(OPENAI_BASE_URL=server.base_url, BGMAGIC_POLL="0.1", **apart, **where) as started:
        started.ok("%load_ext bgmagic")
        started.ok("%%bgresponse -o critique\nA private question about prompt-seven.")
        started.until("critique.running()")
        started.ok("%config BgMagics.instructions = 'as prompt-seven says'")
        started.ok("import openai, bgmagic")
        started.ok(
            f"bgmagic.use(openai.OpenAI(base_url='{server.base_url}', api_key='sk-eleven-1'))"
        )
        inside = started.ok("%run -m bgmagic").stdout
        # The tests' own folder may be set, too.
        assert re.search(
            r"^settings +BgMagics.instructions, (BGMAGIC_\w+, )*BGMAGIC_JOURNAL, (BGMAGIC_\w+, )*BGMAGIC_POLL\b",
            inside,
            re.MULTILINE,
        )
        assert "(OPENAI_BASE_URL is set, by bgmagic.use())" in inside
        assert "critique, " in inside
        assert "resp_1, followed by a living kernel" in inside
        address = "http://bob:pass-eight@host.example:80/v1"
        said = report(**SECRETS, **where, OPENAI_BASE_URL=address)
    assert "server         http://host.example:80/v1 (OPENAI_BASE_URL is set)" in said
    assert f"set            {', '.join(SECRETS)}" in said
    assert "open jobs      1" in said
    azure = "https://host.example/sk-ten-1234567?code=query-nine"
    wrong = report(**{**SECRETS, "OPENAI_API_KEY": "", "AZURE_OPENAI_ENDPOINT": azure})
    assert "AZURE_OPENAI_ENDPOINT '…' has a query" in wrong
    for text in (inside, said, wrong):
        for secret in (
            *SECRETS.values(),
            "four-123456789",
            "prompt-seven",
            "pass-eight",
            "query-nine",
            "sk-ten",
            "sk-eleven",
        ):
            assert secret not in text
