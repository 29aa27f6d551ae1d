"""Header lines, %config and the environment: what they give and what they say when they can't."""

from __future__ import annotations

import ast
import io
import itertools
import os
import re
import shlex
import textwrap
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager

import bgmagic
from bgmagic.api.server import ServerConfig
from bgmagic.errors import BadInput
from bgmagic.notebook.line_magics import BgLineMagics
from bgmagic.notebook.magics import BgMagics
from bgmagic.notebook.parser import as_typed, help_of, options_help, parse_line, split_words
from bgmagic.prompts.inputs import file_parts
from bgmagic.submission.options import environment, options, resolve_settings
from bgmagic.submission.settings import SubmitSettings, WaitSettings, deadline_of
from bgmagic.submission.submit import prepare_request, submit_settings
from tests import labextension

NAMESPACE: dict[str, Any] = {
    "rules": "Be brief. Don't explain.",
    "turns": [{"role": "user", "content": "hi"}],
    "budget": 4000,
    "extra": {"a": [1, 2]},
    "target": "result",
}


def read(line: str, **config: Any) -> SubmitSettings:
    given = parse_line(SubmitSettings, "%%bgresponse", line, NAMESPACE)
    return resolve_settings(SubmitSettings, given, config=config)


def test_defaults() -> None:
    """An empty line gives the table's defaults."""
    assert read("") == SubmitSettings()
    assert SubmitSettings().model == "gpt-5.2"
    assert SubmitSettings().poll is None


def test_every_option_is_read() -> None:
    """Each option arrives under its name, with quotes taken away and variables looked up."""
    line = (
        '-o critique -m gpt-6 -e xhigh -v low -i "don\'t be long" --max-output-tokens $budget '
        "--poll 5 --deadline 1h30m --messages turns --param metadata={extra} --wait --quiet --again "
        "--param reasoning.summary=auto --param 'b={\"c\": [1, null]}' --param n=3 --param x=NaN"
    )
    assert read(line) == SubmitSettings(
        out="critique",
        model="gpt-6",
        effort="xhigh",
        verbosity="low",
        instructions="don't be long",
        max_output_tokens=4000,
        poll=5.0,
        deadline=5400.0,
        messages=NAMESPACE["turns"],
        param=(
            ("metadata", {"a": [1, 2]}),
            ("reasoning.summary", "auto"),
            ("b", {"c": [1, None]}),
            ("n", 3),
            ("x", "NaN"),
        ),
        again=True,
        wait=True,
        quiet=True,
    )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--efort high", r"no option --efort \(did you mean --effort\?\)"),
        ("-x 1", "no option -x; it has --out --model --effort"),
        ("critique", "did you mean `-o critique`"),
        ("-o a 3.5", "'3.5' has no flag before it"),
        ("-i be brief", "'brief' has no flag before it"),
        ('-i "be brief', "a quote is not closed"),
        ("-i don't", "a quote is not closed"),
        ("-m", "--model: expected one argument; write --model MODEL"),
        ("-m ''", "--model is empty"),
        ("-e hgh", "'hgh' is not one of none, minimal, low, medium, high, xhigh, max .*high"),
        ("-v loud", "not one of low, medium, high"),
        ("--poll 0", "more than 0 and less than 90"),
        ("--poll 90", "more than 0 and less than 90"),
        ("--poll -5", "more than 0 and less than 90"),
        ("--poll nan", "more than 0 and less than 90"),
        ("--poll soon", "more than 0 and less than 90"),
        ("--deadline soon", "write it as 90s, 45m, 12h or 2d"),
        ("--deadline 0", "write it as 90s"),
        ("--deadline inf", "write it as 90s"),
        ("--max-output-tokens 0", "1 or more"),
        ("--max-output-tokens many", "not a whole number of tokens"),
        ("-o 3x", "'3x' is no Python name"),
        ("-o get_ipython", "is IPython's own"),
        ("-o class", "'class' is a Python keyword"),
        ("-o a.b", "'a.b' is no Python name"),
        ("-i $budget", "--instructions must be text, not int"),
        ("-i $rule", r"no variable 'rule' in this notebook \(did you mean rules\?\)"),
        ("-i {nothing}", "no variable 'nothing'"),
        ("--messages nothing", "no variable 'nothing'"),
        ("--summary long", "not one of auto, concise, detailed"),
        ("--mode por", r"not one of standard, pro \(did you mean pro\?\)"),
        ("--max-tool-calls 0", "must be a whole number, 1 or more"),
        ("--include reasoning.encrypted_content", "-c keeps the reasoning at the server"),
        ("--include ,", "--include is empty"),
        ("--metadata pilot", "write KEY=VALUE, as in --metadata run=pilot"),
        ("--metadata run=$extra", "--metadata must be text by name, as run=pilot"),
        (f"--metadata run={'x' * 513}", "a value 512"),
        (f"--metadata {'x' * 65}=a", "at most 64 characters"),
        (
            " ".join(f"--metadata a{n}=b" for n in range(17)),
            "these are 17; there can be 16 at most",
        ),
        ("--cache-key ''", "--cache-key is empty"),
        ("--param x", "write KEY=VALUE"),
        ("--param =3", "write KEY=VALUE"),
        ("--param x=$nothing", "no variable 'nothing'"),
        ('--param x={"a":1}', "is not JSON .*put the pair in single quotes"),
        ("--wait=now", "--wait: ignored explicit argument 'now'"),
    ],
)
def test_bad_header_is_one_line(line: str, told: str) -> None:
    """Every header that can't be understood is one line with what is allowed."""
    with pytest.raises(BadInput, match=told) as caught:
        read(line)
    assert "\n" not in str(caught.value)


class Unreadable:
    def __repr__(self) -> str:
        raise LookupError

    __str__ = __float__ = __int__ = __repr__


@pytest.mark.parametrize(
    "value",
    [["a\nb"] * 10**5, "x" * 10**6, 10**5000, [10**5000], Unreadable(), {"k": Unreadable()}],
    ids=["list", "text", "digits", "digits within", "unreadable", "unreadable within"],
)
def test_any_value_is_quoted_in_a_short_line(value: Any) -> None:
    """An option that is given some large or odd object of the notebook quotes a short line of it."""
    told = {}
    for option in options(SubmitSettings):
        try:
            resolve_settings(SubmitSettings, {option.name: value}, from_python=True)
        except BadInput as error:
            told[option.name] = str(error)
    assert told.keys() >= {"effort", "verbosity", "poll", "deadline", "stream"}
    assert all("\n" not in line and len(line) < 500 for line in told.values())


def test_settings_of_long_work_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What long work needs is read from a line, from %config and from the environment; the last of
    two metadata of one name counts, and a number is sent as text."""
    made = read(
        "--summary auto --mode pro --max-tool-calls 3 --cache-key study --include a.b --include c,d "
        "--metadata run=pilot --metadata run=2 --metadata budget=$budget"
    )
    assert (made.summary, made.mode, made.max_tool_calls) == ("auto", "pro", 3)
    assert (made.cache_key, made.include) == ("study", ("a.b", "c", "d"))
    assert made.metadata == (("run", "2"), ("budget", "4000"))
    assert read("", metadata={"run": 1}, include="a").metadata == (("run", "1"),)
    monkeypatch.setenv("BGMAGIC_METADATA", "run=night")
    monkeypatch.setenv("BGMAGIC_INCLUDE", "a.b,c")
    made = read("")
    assert (made.metadata, made.include) == ((("run", "night"),), ("a.b", "c"))


@given(st.text())
def test_any_header_is_read_or_refused(line: str) -> None:
    """No header whatsoever makes anything but settings or one BadInput."""
    try:
        settings = read(line)
    except BadInput:
        return
    assert isinstance(settings, SubmitSettings)


@given(st.text(min_size=1).filter(lambda text: not text.startswith("-")))
def test_quoted_text_arrives_exactly(text: str) -> None:
    """Text that the shell would take as one word arrives as it is, dollars and braces included."""
    reference = text.startswith("$") or (text.startswith("{") and text.endswith("}"))
    if not reference:
        assert read(f"-i {shlex.quote(text)}").instructions == text


@pytest.mark.parametrize("text", ["costs $5", "$HOME/x", "{a} {b}", "$a $b", "{}", "{{rules}}"])
def test_nothing_else_is_expanded(text: str) -> None:
    """Only a value that is exactly $name or {name} is looked up."""
    assert read(f"-i '{text}'").instructions == text


def test_variable_can_name_the_target() -> None:
    """-o $target takes the name from the variable."""
    assert read("-o $target").out == "result"


def test_order_of_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """The header goes before %config, %config before the environment, that before the table."""
    assert read("").effort is None
    monkeypatch.setenv("BGMAGIC_EFFORT", "low")
    assert read("").effort == "low"
    assert read("", effort="medium").effort == "medium"
    assert read("-e high", effort="medium").effort == "high"


def test_variables_count_as_they_are_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is set, changed or taken out of the environment counts for the next submission, also
    where a program has put a dict in its place."""
    assert read("").effort is None
    monkeypatch.setenv("BGMAGIC_EFFORT", "low")
    assert read("").effort == "low"
    monkeypatch.setenv("BGMAGIC_EFFORT", "high")
    assert read("").effort == "high"
    with monkeypatch.context() as replaced:
        replaced.setattr(os, "environ", {"BGMAGIC_EFFORT": "medium"})
        assert read("").effort == "medium"
    assert read("").effort == "high"
    assert environment() == dict(os.environ)
    monkeypatch.delenv("BGMAGIC_EFFORT")
    assert read("").effort is None


def test_wrong_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value in the environment is told with the variable's name."""
    monkeypatch.setenv("BGMAGIC_POLL", "often")
    with pytest.raises(BadInput, match="BGMAGIC_POLL 'often'"):
        read("")


@pytest.mark.parametrize("name", ["model", "effort", "poll", "instructions", "metadata", "notify"])
@pytest.mark.parametrize("quoted", ['"{}"', "'{}'\n", "\ufeff \u201c{}\u201d "])
def test_quotes_around_a_variable_are_one_line(
    name: str, quoted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quotes around a value of the environment, which count there, are told with its name."""
    variable = f"BGMAGIC_{name.upper()}"
    monkeypatch.setenv(variable, quoted.format("a=1"))
    with pytest.raises(BadInput, match=f"^{variable} has quotes around its value, which count"):
        read("")


def test_what_stands_unseen_around_a_variable_is_no_part_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blanks, line ends and a byte-order mark, as files of variables bring them, are left off; a
    variable of these alone is unset, and quotes within the text stay."""
    for name, value in [
        ("MODEL", "\ufeffgpt-6\r\n"), ("EFFORT", "low\u200b\u2028"), ("POLL", "\u3000 5\n"), ("TIER", " \n"),
        ("INSTRUCTIONS", '"a" or "b"\n'), ("METADATA", 'run="1"\n'),
    ]:  # fmt: skip
        monkeypatch.setenv(f"BGMAGIC_{name}", value)
    made = read("")
    assert (made.model, made.effort, made.poll, made.tier) == ("gpt-6", "low", 5.0, None)
    assert (made.instructions, made.metadata) == ('"a" or "b"', (("run", '"1"'),))


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"])
def test_quotes_around_the_sdks_variables_are_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So are those around the SDK's variables; what is unseen around these is left off."""
    monkeypatch.setenv("OPENAI_API_KEY", "\ufeffsk-a\u2009\n")
    monkeypatch.setenv(name, "'http://127.0.0.1/v1'")
    with pytest.raises(BadInput, match=f"^{name} has quotes around its value, which count"):
        ServerConfig.from_environment()
    monkeypatch.setenv(name, "\ufeffhttp://127.0.0.1/v1\r\n")
    made = ServerConfig.from_environment()
    assert made.api_key == "sk-a"
    assert "http://127.0.0.1/v1" in (made.base_url, made.organization, made.project)


@pytest.mark.parametrize(
    ("word", "meant"), [("1", True), ("on", True), ("0", False), ("no", False)]
)
def test_switch_from_the_environment(
    word: str, meant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A switch takes 1 and 0 from the environment, and other words of that kind."""
    monkeypatch.setenv("BGMAGIC_QUIET", word)
    assert read("").quiet is meant


def test_python_arguments_are_named_as_such() -> None:
    """From Python, a message names the argument, not the flag."""
    with pytest.raises(BadInput, match=r"^effort= 'hgh'"):
        resolve_settings(SubmitSettings, {"effort": "hgh"}, from_python=True)


def test_help_shows_every_option() -> None:
    """The help has a line for each option with its flags and choices."""
    text = options_help(SubmitSettings)
    for option in options(SubmitSettings):
        assert ", ".join(option.flags) in text
        assert all(choice in text for choice in option.choices)


def test_names_are_as_python_reads_them() -> None:
    """A name with characters that Python normalizes is bound where Python looks it up."""
    assert read("-o \u00b5").out == "\u03bc"


def test_positional_words_may_stand_anywhere() -> None:
    """Names before and after a flag are all taken, and $name is looked up among them too."""
    given = parse_line(WaitSettings, "%bgwait", "a --timeout 5 b $target", NAMESPACE)
    assert resolve_settings(WaitSettings, given) == WaitSettings(("a", "b", "result"), 5.0)


@pytest.mark.parametrize(
    "given",
    [{"poll": 10**400}, {"deadline": 10**400}, {"param": 5}, {"param": [1]}, {"param": {1: 2}}],
)
def test_odd_python_arguments_are_one_line(given: dict[str, Any]) -> None:
    """Arguments of any type are settings or one BadInput."""
    with pytest.raises(BadInput):
        resolve_settings(SubmitSettings, given, from_python=True)


def _raises(*_: object, **__: object) -> Any:
    raise LookupError


class Hostile:
    __len__ = __iter__ = __str__ = __repr__ = __eq__ = __bool__ = __fspath__ = __getitem__ = _raises
    __float__ = __int__ = __contains__ = __getattr__ = _raises
    __hash__ = object.__hash__


class Hidden:
    def __getattribute__(self, name: str) -> Any:
        raise LookupError(name)


class OddClass(type):
    __getattr__ = __repr__ = __eq__ = __instancecheck__ = __subclasscheck__ = _raises
    __hash__ = type.__hash__
    __name__ = property(_raises)  # type: ignore[assignment]


def _only_says_it_is(kind: type[Any]) -> object:
    return type("Proxy", (), {"__class__": property(lambda _: kind)})()


class OddList(list[Any]):
    __iter__ = _raises  # type: ignore[assignment]


class OddText(str):
    __str__ = __repr__ = __len__ = strip = isidentifier = encode = __eq__ = _raises  # type: ignore[assignment]
    __hash__ = str.__hash__


class OddDict(dict[str, Any]):
    get = items = keys = __iter__ = __getitem__ = _raises  # type: ignore[assignment]


class Endless(dict[str, Any]):
    def __iter__(self) -> Iterator[str]:
        return map(str, itertools.count())

    def __getitem__(self, key: str) -> Any:
        return "user"


def _closed() -> io.BytesIO:
    made = io.BytesIO(b"x")
    made.close()
    return made


def _deep() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for _ in range(50_000):
        made = {"type": made}
    return made


ODD: list[Any] = [
    Hostile(), Hostile, Hidden(), OddClass("Odd", (), {}), OddClass("Odd", (), {})(),
    *map(_only_says_it_is, (str, bytes, list, tuple, dict, bgmagic.Job, bgmagic.Answer)),
    OddList("a"), OddText("a"), OddDict(type="a"), Endless(type="a"), _closed(), _deep(),
    itertools.repeat({"role": "user", "content": "x"}), MappingProxyType({"type": Hostile()}),
    [{"role": Hostile(), "content": "x"}], [{"role": "user", "content": Hostile()}],
    [{"role": "user", "content": [{"type": "input_text", "text": Hostile()}]}],
    [{Hostile(): 1, "role": "user", "content": "x"}], [OddDict(role="user", content="x")],
    [Endless(role="user", content="x")], {"type": "object", "properties": Hostile()},
    {"type": "json_schema", "name": Hostile(), "strict": False, "schema": {}},
    {"type": "json_schema", "name": "a", "strict": False, "schema": {"a": {1, 2}}},
    {"a": Hostile()}, {Hostile(): "a"}, {"a": float("nan")}, {"a": OddList("a")},
]  # fmt: skip


@pytest.mark.parametrize(
    "option",
    ["messages", "file", "tool", "schema", "instructions", "metadata", "param", "continue_"],
)
def test_objects_that_raise_are_one_line(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that raises, lies or never ends as it is looked at is one line that names its
    option, or is sent as what it holds"""
    monkeypatch.setattr("bgmagic.api.request_body.MOST_PARTS", 1000)
    cases: list[tuple[Any, dict[str, Any]]] = [(value, {}) for value in ODD]
    if option in ("file", "tool"):
        cases += [([value], {}) for value in ODD]
    if option == "continue_":
        cases += [("odd", {"odd": value}) for value in ODD]
    for value, variables in cases:
        try:
            settings = submit_settings({option: value}, from_python=True)
            prepare_request("hello", settings, variables)
        except BadInput as error:
            told = str(error)
            assert "\n" not in told, told
            assert len(told) < 700, told
            assert told.startswith(f"{option}=") or option.strip("_") in told, told


def test_an_interrupt_goes_through() -> None:
    """Ctrl-C while an object of the user's is read is no bad input."""

    class Interrupted(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            raise KeyboardInterrupt

    for option in ("file", "tool", "param"):
        given = {"a": Interrupted("a")} if option == "param" else [Interrupted("a")]
        with pytest.raises(KeyboardInterrupt):
            prepare_request("hello", submit_settings({option: given}, from_python=True))


@pytest.mark.parametrize("call", [bgmagic.submit, bgmagic.map])
def test_prompts_and_values_that_raise_are_one_line(call: Any) -> None:
    """What is no text as a prompt, or no dict as the values of its expressions, is one line."""
    for value in [*ODD[:12], 5, b"x", None, ["a"]]:
        with pytest.raises(BadInput, match=r"^the (prompt|template) must be text, not"):
            call(value)
    for value in [Hostile(), OddDict(a=1), 5, "ab", ["a"], {1: 2}, dict]:
        with pytest.raises(BadInput, match=r"^fill= "):
            call("hello", fill=value)


def test_help_fits_a_page() -> None:
    """The help of every magic begins at the margin, Python's indentation gone, and fits in 100 columns."""
    magics = {**BgMagics.magics["cell"], **BgLineMagics.magics["line"]}
    for kind in (BgMagics, BgLineMagics):
        for name in set(magics) & set(vars(kind)):
            first, _, rest = help_of(vars(kind)[name]).partition("\n\n")
            assert first == first.strip(), name
            assert not rest.startswith(" "), name
            assert max(map(len, rest.splitlines())) <= 100, name
            assert "\nOptions:\n  " in f"\n{rest}", name


def test_numbers_of_text_fields_stay_as_written() -> None:
    """Where the API takes text, a number in the line arrives as it was written."""
    given = read(
        "--param metadata.run=1e3 --param metadata.id=007 --param user=1.50 --param top_p=1e0"
    )
    assert given.param == (
        ("metadata.run", "1e3"), ("metadata.id", "007"), ("user", "1.50"), ("top_p", 1.0),
    )  # fmt: skip


def test_double_quotes_keep_backslashes() -> None:
    """In double quotes a backslash stays, two of them too; before a quote it makes that one text."""
    assert read(r'-i "\\alpha \n \"x\""').instructions == r'\\alpha \n "x"'
    assert read(r'-i "C:\data\\"').instructions == "C:\\data\\\\"


PATH = r"C:\Users\me\new.csv"


def test_path_outside_quotes_keeps_its_backslashes_on_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On Windows a path needs no quotes."""
    monkeypatch.setattr("bgmagic.notebook.parser.BACKSLASH_STAYS", True)
    assert read(f"--file {PATH} --again").file == (PATH,)
    assert read("-i 'a b' --file \\").file == ("\\",)


def test_lost_backslashes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere a path that lost its backslashes is told with the way to write it, which then works."""
    monkeypatch.setattr("bgmagic.notebook.parser.BACKSLASH_STAYS", False)
    (word,) = read(f"--file {PATH}").file
    told = (
        "the backslashes outside quotes were taken away, write 'C:\\Users\\me\\new.csv' in quotes"
    )
    with pytest.raises(BadInput, match=re.escape(told)):
        file_parts([word])
    assert read(f"--file '{PATH}'").file == read(f'--file "{PATH}"').file == (PATH,)
    assert read(r"--file my\ data.csv").file == ("my data.csv",)


@given(st.text("ab=- \t'\"", max_size=12))
def test_words_are_split_as_the_shell_does(line: str) -> None:
    """Without backslashes a line is split as shlex does it, and refused where it refuses."""
    try:
        words = shlex.split(line)
    except ValueError:
        with pytest.raises(BadInput, match="a quote is not closed"):
            split_words(line)
    else:
        assert split_words(line) == words


@given(st.text(">.I n[1]:a\n\t'\"", max_size=40), st.sampled_from(["", "  "]))
@example(">>> 7 // 2\n3\n", "")
@example("a\n\n    >>> if 1:\n    ...     b\n    c\n", "")
@example("In [1]: a\n   ...: b\n", "  ")
@example("\na\n>>>", "")
@example("\n>>>", "")
def test_a_body_is_what_was_typed(body: str, indent: str) -> None:
    """What IPython makes of a cell is turned back into what was typed, whose prompts it takes off."""
    raw = "".join(f"{indent}{line}\n" for line in ["%%m", *body.split("\n")])
    call = ast.parse(TransformerManager().transform_cell(raw)).body[0]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    cell = ast.literal_eval(call.value.args[2])
    typed = textwrap.dedent(raw).partition("\n")[2]
    assert re.sub(r"(?m)^[ \t]+$", "", as_typed(cell, raw)) == typed
    assert as_typed(cell, raw.rstrip("\n")) == as_typed(cell, raw)
    assert as_typed(cell, "another(cell)") == cell


@pytest.mark.parametrize(
    ("given", "config", "kept"),
    [
        ({"window": "2h"}, {"stream": True, "tier": "flex"}, ("2h", None, False)),
        ({"stream": True}, {"window": "8h"}, (None, None, True)),
        ({"tier": "flex"}, {"window": "8h"}, (None, "flex", False)),
        ({"tier": "default"}, {"window": "8h"}, ("8h", "default", False)),
        ({"window": "soonest"}, {"stream": True, "tier": "flex"}, ("soonest", "flex", True)),
        ({"window": "2h", "stream": True}, {}, ("2h", None, True)),
        ({}, {"window": "2h", "stream": True}, ("2h", None, True)),
    ],
)
def test_what_is_given_goes_before_defaults_that_it_excludes(
    given: dict[str, Any],
    config: dict[str, Any],
    kept: tuple[Any, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A window on the line switches a default stream or tier off, and the other way round; two that
    are given, or two defaults, stay, to be refused."""
    for name, value in config.items():
        monkeypatch.setenv(f"BGMAGIC_{name.upper()}", str(value))
    settings = submit_settings(given)
    assert (settings.window, settings.tier, settings.stream) == kept


@pytest.mark.parametrize(
    ("settings", "hours"),
    [
        ({}, 24),
        ({"window": "8h"}, 24),
        ({"window": "8h", "deadline": 3600.0}, 9),
        ({"window": "2h", "deadline": 60.0}, 3),
        ({"param": (("background_options", {"completion_window": "2h"}),), "deadline": 60.0}, 3),
        ({"param": (("background_options.completion_window", "8h"),), "deadline": 60.0}, 9),
        ({"window": "soonest", "deadline": 3600.0}, 1),
    ],
)
def test_the_deadline_lies_beyond_the_window(settings: dict[str, Any], hours: int) -> None:
    """A job is watched longer than its window lasts, whatever deadline was asked for."""
    assert deadline_of(SubmitSettings(**settings)) == hours * 3600


def test_labextension_knows_the_options() -> None:
    """What JupyterLab's extension knows of the options is what is declared; else `COMMAND` mends it."""
    assert labextension.PATH.read_text() == labextension.options_module(), labextension.COMMAND


def test_labextension_colours_variables_alone() -> None:
    """JupyterLab colours as a variable what Tab completes as one; the words of --include are none."""
    (line,) = (
        line for line in labextension.options_module().splitlines() if line.endswith(', "name"],')
    )
    assert line.split('"')[1] == "-o --out --messages -c --continue --schema --each"
