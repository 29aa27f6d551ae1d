"""Hosted tools, and what answers cite."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgmagic.api.response import Citation, read_citations, sources
from bgmagic.api.words import TOOLS
from bgmagic.errors import BadInput
from bgmagic.jobs.job import Answer
from bgmagic.prompts.inputs import tool_entries
from bgmagic.runtime.manager import JobManager
from bgmagic.submission.settings import SubmitSettings
from tests.conftest import asked
from tests.jobs.test_answer import json_values
from tests.support.kernels import Kernel
from tests.support.scripted import ScriptedServer, response


def cited(*parts: tuple[str, list[Any]], rid: str = "resp_1") -> dict[str, Any]:
    """A completed response of these texts with these annotations."""
    content = [{"type": "output_text", "text": text, "annotations": found} for text, found in parts]
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    output = [search, {"type": "message", "role": "assistant", "content": content}]
    return response(rid, "completed") | {"output": output}


def page(title: str, url: str, start: int = 0, end: int = 1) -> dict[str, Any]:
    return {
        "type": "url_citation", "title": title, "url": url, "start_index": start, "end_index": end,
    }  # fmt: skip


FILE = {"type": "file_citation", "file_id": "file-1", "filename": "trial.pdf", "index": 7}
MADE = {
    "type": "container_file_citation", "container_id": "c", "file_id": "cf-2",
    "filename": "plot.png", "start_index": 0, "end_index": 2,
}  # fmt: skip
PATH = {"type": "file_path", "file_id": "file-3", "index": 0}


def test_citations_are_read_with_their_place() -> None:
    """Each citation has its title, address and file, and points at its own text in the whole answer."""
    first, second = "Water is wet.", "Ice is not."
    answer = Answer(
        first + second,
        cited((first, [page("Wet", "https://a.org/w", 0, 5), FILE, MADE]), (second, [PATH, page("Ice", "https://a.org/i", 0, 3)])),
    )  # fmt: skip
    assert answer.citations == (
        Citation("url_citation", "Wet", url="https://a.org/w", start=0, end=5),
        Citation("file_citation", "trial.pdf", file_id="file-1"),
        Citation("container_file_citation", "plot.png", file_id="cf-2", start=0, end=2),
        Citation("file_path", "", file_id="file-3"),
        Citation("url_citation", "Ice", url="https://a.org/i", start=13, end=16),
    )
    last = answer.citations[-1]
    assert answer[last.start : last.end] == "Ice"
    assert pickle.loads(pickle.dumps(answer)).citations == answer.citations
    assert Answer("x", {}).citations == ()


@pytest.mark.parametrize(
    "place", [(-1, 2), (3, 2), (0, 99), ("0", 1), (0, None), (None, 1), (0.0, 1.0)]
)
def test_places_outside_the_text_are_none(place: tuple[Any, Any]) -> None:
    """A place that is not in the text is no place; the citation itself is kept."""
    (found,) = read_citations(cited(("Water.", [page("A", "https://a.org", *place)])))
    assert (found.start, found.end) == (None, None)
    assert found.url == "https://a.org"


annotation = st.dictionaries(
    st.sampled_from(["type", "url", "title", "filename", "file_id", "start_index", "end_index"]),
    json_values,
)
hostile = st.fixed_dictionaries({
    "output": json_values | st.lists(st.fixed_dictionaries({
        "content": json_values | st.lists(st.fixed_dictionaries({
            "type": st.sampled_from(["output_text", "refusal"]) | json_values,
            "text": st.text(max_size=9) | json_values,
            "annotations": json_values | st.lists(annotation, max_size=4),
        }))
    }))
})  # fmt: skip


@given(hostile | st.dictionaries(st.text(max_size=8), json_values))
def test_reading_citations_is_total(response: dict[str, Any]) -> None:
    """Whatever JSON object comes, it gives citations whose places are inside the text, and an answer that can be shown."""
    citations = read_citations(response)
    for citation in citations:
        assert isinstance(citation.title, str)
        assert citation.start is None or 0 <= citation.start <= (citation.end or 0)
    assert Answer("x", response)._repr_mimebundle_()["text/plain"] == "x"
    assert len(sources(citations)) <= len(citations)


def test_sources_stand_under_the_answer_once() -> None:
    """What is cited is a list of links under the answer, each page once, and a file by its name."""
    found = [
        page("A", "https://a.org/1"),
        page("B", "https://b.org"),
        page("A", "https://a.org/1"),
        FILE,
    ]
    html = Answer("Text.", cited(("Text.", found)))._repr_mimebundle_()["text/html"]
    below = html.partition("Sources")[2]
    assert re.findall(r'<a href="([^"]*)" rel="noopener noreferrer[^"]*"', below) == [
        "https://a.org/1",
        "https://b.org",
    ]
    assert below.count("<li>") == 3
    assert "<li>trial.pdf</li>" in below  # a file has no address, so no brackets either
    assert "Sources" not in Answer("Text.", cited(("Text.", [])))._repr_mimebundle_()["text/html"]


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "data:text/html,<script>",
        "file:///etc/passwd",
        "//a.org",
        "x\nhttps://a",
    ],
)
def test_no_other_scheme_is_linked(url: str) -> None:
    """What is neither http nor https is text, and a title is never markup."""
    title = '<img src=x onerror="alert(1)">'
    html = Answer("T", cited(("T", [page(title, url)])))._repr_mimebundle_()["text/html"]
    assert "<a " not in html
    assert "<img" not in html
    assert "&lt;img" in html


@pytest.mark.parametrize("kind", TOOLS)
def test_a_type_is_enough_for_these(kind: str) -> None:
    """Each offered type becomes the tool's dict, with what the API needs beside it."""
    needs = {
        "code_interpreter": {"container": {"type": "auto"}},
        "shell": {"environment": {"type": "container_auto"}},
    }
    assert tool_entries([kind]) == [{"type": kind, **needs.get(kind, {})}]


def test_dicts_lists_and_unknown_types_are_passed_on() -> None:
    """A dict goes as it is, a list one by one, and a type of another server's untouched."""
    store = {"type": "file_search", "vector_store_ids": ["vs_1"]}
    several = [
        "web_search",
        [store, "web_search_2027_01_01"],
        "browser.navigate",
        {"type": "web_serch"},
    ]
    assert tool_entries(['{"type": "web_search", "search_context_size": "low"}']) == [
        {"type": "web_search", "search_context_size": "low"}
    ]
    assert tool_entries(several) == [
        {"type": "web_search"},
        store,
        {"type": "web_search_2027_01_01"},
        {"type": "browser.navigate"},
        {"type": "web_serch"},
    ]


@pytest.mark.parametrize(
    ("tool", "told"),
    [
        ("web_search,shell", "'web_search,shell' is not one of .*; each has a --tool of its own"),
        ('{"type": ', "this is not JSON"),
        ("{}", "takes a type such as web_search, a dict"),
        ("web_serch", r"'web_serch' is not one of web_search, .*\(did you mean web_search\?\)"),
        ("", "'' is not one of web_search"),
        ("file_search", 'needs more than its type: .*"vector_store_ids"'),
        ("mcp", 'needs more than its type: .*"server_url"'),
        ({"type": "file_search"}, "needs a vector store"),
        ({"type": "mcp", "server_url": "https://a.org"}, "nobody can approve .*require_approval"),
        ({"type": "function", "name": "f"}, "function needs somebody here who answers its calls"),
        ("computer", "computer needs somebody here"),
        ({"type": "shell", "environment": {"type": "local"}}, "only a shell at the server"),
        ({"name": "x"}, "takes a type such as web_search, a dict"),
        (5, "takes a type such as web_search, a dict"),
    ],
)
def test_a_tool_that_cannot_work_is_one_line(tool: Any, told: str) -> None:
    """A misspelt type, a lacking part and a tool that calls back here are told before anything is sent."""
    with pytest.raises(BadInput, match=told) as caught:
        tool_entries([tool])
    assert str(caught.value).startswith("--tool")
    assert "\n" not in str(caught.value)


def test_tools_are_given_once() -> None:
    """--tool and --param tools can't both be there."""
    settings = SubmitSettings(tool=("web_search",), param=(("tools", []),))
    with pytest.raises(BadInput, match="--param tools: tools is already set"):
        asked("Why?", settings)
    assert "tools" not in asked("Why?", SubmitSettings()).body


def test_output_without_text_says_what_it_is(manager: JobManager, pointed: ScriptedServer) -> None:
    """A response whose output is no text at all says what there is instead, and where."""
    drawn = {"type": "image_generation_call", "id": "ig_1", "result": "iVBO"}
    pointed.ending = lambda rid, _: response(rid, "completed") | {"output": [drawn]}
    request = asked("Draw.", SubmitSettings(tool=("image_generation",)))
    job = manager.submit(request, poll_interval=0.05)
    told = "completed, but without any text; .response has its output: image_generation_call"
    assert str(job.exception(20)) == told


def test_in_a_kernel(in_kernel: Kernel, server: ScriptedServer) -> None:
    """The tools are sent, the answer has its citations, and their links stand under it in what remains of the job."""
    text = "Water boils at 93 °C there."
    found = [page("Boiling <point>", "https://a.org/boil?a=1&b=2", 0, 5)]
    server.ending = lambda rid, _: cited((text, found), rid=rid)
    in_kernel.ok("store = {'type': 'file_search', 'vector_store_ids': ['vs_1']}")
    line = "-o boils --tool web_search --tool code_interpreter --tool $store --wait"
    ran = in_kernel.ok(f"%%bgresponse {line}\nWhere?")
    assert server.seen[0].body["tools"] == [
        {"type": "web_search"},
        {"type": "code_interpreter", "container": {"type": "auto"}},
        {"type": "file_search", "vector_store_ids": ["vs_1"]},
    ]
    assert in_kernel.value("boils.citations[0].url") == "'https://a.org/boil?a=1&b=2'"
    html = "".join(display.get("text/html", "") for display in ran.displays)
    html += in_kernel.ok("%bgjobs boils").displays[0]["text/html"]
    assert '<a href="https://a.org/boil?a=1&amp;b=2"' in html
    assert "Boiling &lt;point&gt;" in html
    told = in_kernel.run("%%bgresponse --tool function\nWhere?").said
    assert told.startswith("UsageError: --tool: function needs somebody here")
