"""The lines of a batch's file: requests that the API describes, one a line whatever they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.api.batch import ENDPOINT, request_line
from bgmagic.errors import BadInput
from bgmagic.jobs.record import JobRecord
from bgmagic.submission.settings import SubmitSettings
from bgmagic.sweeps.feed import asked_by, record_at
from bgmagic.sweeps.plan import plan_sweep
from tests.api.test_request import CREATE
from tests.api.test_request_schema import KINDS
from tests.batches.study import config_of, manager_of, records_of
from tests.conftest import KEY
from tests.jobs.test_job import LIMIT
from tests.support.scripted import ScriptedServer

# What ends a line for one reader or another, or a text within a line.
ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
HOSTILE = st.text(
    st.sampled_from(f'{ENDS}"\\/{{}}\x00\ufeff\U0001f600a')
    | st.characters(exclude_categories=["Cs"]),
    min_size=1,
).filter(str.strip)
# A batch has neither, and the line of another kind of tier is refused before.
IN_BATCH = KINDS | {"window": [None], "stream": [False], "tier": [None, "default"]}


def records(items: list[str], **settings: Any) -> list[JobRecord]:
    """The jobs of a sweep that is to go in a batch."""
    asked = SubmitSettings(each=items, batch=True, out="study", **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        plan = plan_sweep("{{ item }}", asked, "study", {})
    return [
        record_at(plan, index, asked_by(one), 0.0, "nb") for index, one in enumerate(plan.prepared)
    ]


@given(
    st.lists(HOSTILE, min_size=1, max_size=4),
    st.fixed_dictionaries({name: st.sampled_from(kinds) for name, kinds in IN_BATCH.items()}),
    HOSTILE,
)
def test_lines_are_requests_of_the_api(
    items: list[str], chosen: dict[str, Any], instructions: str
) -> None:
    """Whatever a sweep asks with whatever options, each of its lines is one for every reader of lines,
    has a name of its own, and a body that the API describes, without background mode and stream."""
    if chosen["instructions"] is not None:
        chosen = chosen | {"instructions": instructions}
    made = records(items, **chosen)
    raw = b"".join(request_line(one.key, one.request.text) for one in made)
    assert raw.endswith(b"\n")
    assert len(raw.decode().splitlines()) == raw.count(b"\n") == len(made) == len(items)
    read = [json.loads(line) for line in raw.split(b"\n")[:-1]]
    assert len({line["custom_id"] for line in read}) == len(items)
    for line, record, item in zip(read, made, items, strict=True):
        assert line.keys() == {"custom_id", "method", "url", "body"}
        assert (line["custom_id"], line["method"]) == (record.key, "POST")
        assert line["url"] == ENDPOINT
        body = line["body"]
        assert body == record.request.body
        assert not body.keys() & {"background", "background_options", "stream", "store"}
        CREATE.validate(body)
        assert body["input"][-1]["content"][0] == {"type": "input_text", "text": item}
        assert body.get("instructions") == chosen["instructions"]


@given(HOSTILE, st.characters(categories=["Cs"]), HOSTILE)
def test_half_characters_are_told_before(before: str, half: str, after: str) -> None:
    """What UTF-8 can't hold never reaches a file: it is one line that names the character."""
    with pytest.raises(BadInput, match=rf"U\+{ord(half):04X}") as caught:
        records([f"{before}{half}{after}"])
    assert "\n" not in str(caught.value)


def test_hostile_prompts_are_answered_in_their_places(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """Prompts with all that may end a line go to the server and back, each to its own job."""
    prompts = [f'q{number}{end}{{"custom_id": "x"}}\\u2028{end}' for number, end in enumerate(ENDS)]
    asked = [
        record.with_changes(request=made.request)
        for record, made in zip(records_of(server, len(prompts)), records(prompts), strict=True)
    ]
    kernel = manager_of(tmp_path / "journal.sqlite3")
    try:
        jobs = kernel.submit_all(asked, config_of(server))
        told = [job.result(LIMIT) for job in jobs]
        assert told == [f"echo: {prompt}" for prompt in prompts]
        (content,) = [text for name, text in server.batching.files.values() if "bgmagic" in name]
        assert len(content.decode().splitlines()) == len(prompts)
    finally:
        kernel.close(60)
