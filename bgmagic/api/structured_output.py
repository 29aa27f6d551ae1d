"""Makes the format for structured output of a Pydantic model or a JSON schema, and reads replies.

Pydantic and fastjsonschema are imported when used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bgmagic.api.request_body import plain_json
from bgmagic.api.strict_schema import StrictSchema
from bgmagic.errors import BadInput
from bgmagic.text import one_line

if TYPE_CHECKING:
    import pydantic


def response_format(given: Any) -> dict[str, Any]:
    """Make ``text.format``, as the API takes it, of what the user gives as a schema.

    Every field becomes required, since strict mode knows no others. In a JSON schema those that
    were not may be null; a Pydantic model says so itself, with ``| None``.

    Args:
        given: a Pydantic model or dataclass, a dataclass or a TypedDict (the class), a JSON schema
            as a dict, or such a format as a dict, which with ``"strict": false`` stays as it is.

    Raises:
        BadInput: it is none of these, or can't be said in strict mode.
    """
    try:
        if isinstance(given, Mapping):
            return _of_dict(plain_json(given, "--schema"))
        if is_class(given):
            return _of_class(given)
    except RecursionError:
        raise BadInput("--schema: it holds itself without end; use $ref for that") from None
    except BadInput:
        raise
    except Exception as error:  # a schema may have anything in any place
        why = one_line(f"{type(error).__name__}: {error}", 200)
        raise BadInput(f"--schema: this is no JSON schema ({why})") from None
    kind = type(given).__name__
    if isinstance(given, type) and not typing.get_origin(given):
        raise BadInput(
            f"--schema: {given.__name__} is no class that has fields; write it as a Pydantic "
            f"model, class {_as_name(given.__name__)}(BaseModel), with a field for each part of "
            "the answer"
        )
    if hasattr(type(given), "model_json_schema") or dataclasses.is_dataclass(given):
        raise BadInput(f"--schema: this is an object of {kind}; give the class {kind} itself")
    if typing.get_origin(given) is not None or isinstance(given, types.UnionType):
        raise BadInput(
            f"--schema: strict mode can't take {one_line(_type_words(given), 80)} as the whole: "
            "put it into a field of a Pydantic model"
        )
    raise BadInput(f"--schema takes a Pydantic model or a JSON schema as a dict, not {kind}")


def _as_name(name: str) -> str:
    return name[:1].upper() + name[1:]


def _type_words(given: Any) -> str:
    """A type as it is written in code, without the modules that its classes are from."""
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(given))


def is_class(value: object) -> bool:
    """Whether ``value`` is a class that Pydantic can make a schema of an object from."""
    return isinstance(value, type) and (
        hasattr(value, "model_json_schema")
        or dataclasses.is_dataclass(value)
        # A TypedDict, of typing or of typing_extensions.
        or (issubclass(value, dict) and hasattr(value, "__total__"))
    )


def find_output_type(
    form: Mapping[str, Any] | None, namespace: Mapping[str, Any]
) -> type[Any] | None:
    """Find the class in ``namespace`` whose format is exactly ``form``, by its name."""
    found = namespace.get(str(form.get("name"))) if form else None
    try:
        same = is_class(found) and response_format(found) == form
    except Exception:  # a class of the user's may do anything
        same = False
    return found if same else None


def parse_output(text: str, form: Mapping[str, Any], given: type[Any] | None = None) -> Any:
    """Read ``text``, a reply in the format ``form``.

    Args:
        given: the class to make an object of; without one the result is plain JSON.

    Raises:
        ValueError: it does not fit; the one line names the field.
    """
    text = _json_within(text)
    try:
        return _by_class(text, given) if given is not None else _by_schema(text, form)
    except ValueError:
        raise
    except BaseException as error:  # validators are the user's code: they may even sys.exit
        why = one_line(f"{type(error).__name__}: {error}")
        raise ValueError(f"the validation itself failed with {why}") from None


_FENCE = re.compile(r"(`{3,}|~{3,})[^\n`]*\n(.*)\n[ \t]*\1[`~]*", re.DOTALL)


def _json_within(text: str) -> str:
    """The JSON of a reply: after a byte-order mark, and out of the code fence that is all of it."""
    bare = text.strip("\ufeff \t\r\n")
    fenced = _FENCE.fullmatch(bare.replace("\r\n", "\n"))
    return fenced[2] if fenced else bare


def _no_json(text: str, why: str) -> ValueError:
    """Why ``text`` is not JSON: there may be JSON in it, with words around it."""
    for begin in re.finditer(r"[{[]", text[:10_000]):
        try:
            _, end = json.JSONDecoder().raw_decode(text, begin.start())
        except (ValueError, RecursionError):
            continue
        if text[: begin.start()].strip() or text[end:].strip():
            about = "there are words around its JSON, so the server did not keep to the schema"
            return ValueError(about)
    return ValueError(f"it is not JSON: {why}")


def pickled_data(data: Any) -> bytes | None:
    """The data of an answer as bytes; empty where its class can't be pickled."""
    try:
        return None if data is None else pickle.dumps(data)
    except Exception:  # an object of the user's class; what JSON says of it remains
        return b""


def unpickled_data(pickled: bytes | None, text: str) -> Any:
    """The data of an answer with this ``text``; as JSON says it where its class is not known."""
    if pickled is None:
        return None
    try:
        return pickle.loads(pickled)  # noqa: S301 - it is a part of what is unpickled
    except Exception:
        return json.loads(_json_within(text))


def _by_class(text: str, given: type[Any]) -> Any:
    import pydantic

    try:
        return pydantic.TypeAdapter(given).validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise _no_json(text, first["msg"]) from None
        raise ValueError(validation_line(error)) from None


def validation_line(error: pydantic.ValidationError) -> str:
    """What Pydantic found wrong, in one line that names the field."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return _line(f"{_place(found[0]['loc'])}{found[0]['msg']}", len(found))


def _by_schema(text: str, form: Mapping[str, Any]) -> Any:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise _no_json(text, str(error)) from None
    import fastjsonschema

    check = fastjsonschema.compile(
        _Draft7(form.get("schema") or {}).schema,
        handlers=dict.fromkeys(("http", "https", "ftp", "file"), _fetch_nothing),
        use_default=False,
        use_formats=False,
    )
    try:
        check(value)
    except fastjsonschema.JsonSchemaValueException as error:
        # The library calls the whole "data", and the message begins with the field's place.
        message = re.sub(r"^data\b\.?", "", error.message).strip()
        raise ValueError(one_line(message, 300)) from None
    return value


_PARTS = (
    "items", "additionalItems", "additionalProperties", "contains", "propertyNames",
    "not", "if", "then", "else", "allOf", "anyOf", "oneOf", "prefixItems",
)  # fmt: skip
_NAMED_PARTS = (
    "properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies",
)  # fmt: skip

# Words that say more of the very value that they stand for, and by which more of it is evaluated.
_BESIDE = (
    "allOf", "anyOf", "oneOf", "if", "$ref", "$dynamicRef", "$recursiveRef", "dependentSchemas",
)  # fmt: skip


def unchecked_note(form: Mapping[str, Any]) -> str:
    """What to tell of a format whose schema says more than replies are checked by, or ""."""
    words: list[str] = []
    with contextlib.suppress(Exception):  # of what is no schema the server says so
        words = sorted(_Draft7(form.get("schema") or {}).unsaid)
    told = f"--schema: answers are not checked by {' and '.join(words)}; the model alone is told"
    return told if words else ""


class _Draft7:
    """Says a schema in draft 7, the newest that fastjsonschema knows: it passes over a word of a
    later one (2019-09, 2020-12) or takes it in its old meaning.

    Attributes:
        schema: the schema in draft 7.
        unsaid: the words for which that has none.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.unsaid: set[str] = set()
        self._older = re.search(r"draft-0[3-7]", str(schema.get("$schema", ""))) is not None
        self._anchors = {} if self._older else dict(reversed([*_anchors(schema, "#")]))
        self.schema: Any = self._node(schema)

    def _node(self, node: Any) -> Any:
        if isinstance(node, list | tuple):
            return [self._node(part) for part in node]
        if not isinstance(node, Mapping):
            return node
        made = {key: self._node(part) if key in _PARTS else part for key, part in node.items()}
        for key in _NAMED_PARTS:
            if isinstance(made.get(key), Mapping):
                made[key] = {name: self._node(part) for name, part in made[key].items()}
        self._say_patterns(made)
        return made if self._older else self._in_older_words(made, node)

    def _say_patterns(self, made: dict[str, Any]) -> None:
        """Say patterns as Python compiles them; one that it can't, as ``\\p{L}``, is left out."""
        if isinstance(pattern := made.get("pattern"), str):
            made["pattern"] = _with_dollars_escaped(pattern)
            if not _compiles(made["pattern"]):
                del made["pattern"]
                self.unsaid.add("pattern")
        if isinstance(named := made.get("patternProperties"), Mapping):
            said = {_with_dollars_escaped(str(key)): part for key, part in named.items()}
            made["patternProperties"] = {k: part for k, part in said.items() if _compiles(k)}
            if len(made["patternProperties"]) < len(named):
                # What it would have taken is not to count as additional.
                made.pop("additionalProperties", None)
                self.unsaid.add("patternProperties")

    def _in_older_words(self, made: dict[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(made.get("prefixItems"), list):
            made["additionalItems"] = made.get("items", True)
            made["items"] = made["prefixItems"]
        self._say_what_is_left(made, node)
        self._say_counts(made)
        more = [
            {"dependencies": made[key]}
            for key in ("dependentRequired", "dependentSchemas")
            if key in made
        ]
        for key in ("$ref", "$dynamicRef", "$recursiveRef"):
            if isinstance(made.get(key), str):
                named = made.pop(key)
                more.append({"$ref": self._anchors.get(named, named)})
        if not made and len(more) == 1:
            return more[0]
        # In draft 7 a $ref stands for all that is beside it.
        return made | {"allOf": [*made.get("allOf", ()), *more]} if more else made

    def _say_what_is_left(self, made: dict[str, Any], node: Mapping[str, Any]) -> None:
        """Say what holds of properties and items that nothing else speaks of."""
        beside = any(key in node for key in _BESIDE)
        left = made.get("unevaluatedProperties", True)
        if left is not True and "additionalProperties" not in made:
            if beside:
                self.unsaid.add("unevaluatedProperties")
            else:
                made["additionalProperties"] = self._node(left)
        left = made.get("unevaluatedItems", True)
        if left is not True and "items" not in node:
            if beside or "contains" in node:
                self.unsaid.add("unevaluatedItems")
            else:
                made["additionalItems" if "prefixItems" in node else "items"] = self._node(left)

    def _say_counts(self, made: dict[str, Any]) -> None:
        if "contains" not in made:
            return
        if made.get("minContains", 1) == 0:
            del made["contains"]
        elif made.get("minContains", 1) != 1:
            self.unsaid.add("minContains")
        if "maxContains" in made:
            self.unsaid.add("maxContains")


_ESCAPE_OR_SET = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_ESCAPE_OR_DOLLAR = re.compile(r"\\.|\$", re.DOTALL)


def _with_dollars_escaped(pattern: str) -> str:
    """Say a regular expression with ``\\$`` for each ``$`` in a set, as in ``[$€]``: any bare one
    counts as the end for fastjsonschema, which then can't compile the set."""

    def in_set(found: re.Match[str]) -> str:
        if found[0].startswith("\\"):
            return found[0]
        return _ESCAPE_OR_DOLLAR.sub(lambda one: "\\$" if one[0] == "$" else one[0], found[0])

    return _ESCAPE_OR_SET.sub(in_set, pattern)


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def _anchors(node: Any, place: str) -> Iterator[tuple[str, str]]:
    """The names that the schemas in ``node`` have to be referred to by, and where these are."""
    if isinstance(node, list):
        for number, part in enumerate(node):
            yield from _anchors(part, f"{place}/{number}")
    if not isinstance(node, Mapping):
        return
    for key in ("$anchor", "$dynamicAnchor"):
        if isinstance(node.get(key), str):
            yield f"#{node[key]}", place
    for key in _PARTS:
        yield from _anchors(node.get(key), f"{place}/{key}")
    for key in _NAMED_PARTS:
        named = node.get(key)
        for name, part in named.items() if isinstance(named, Mapping) else ():
            pointed = str(name).replace("~", "~0").replace("/", "~1")
            yield from _anchors(part, f"{place}/{key}/{pointed}")


def _fetch_nothing(address: str) -> None:
    raise LookupError(f"$ref {address} is not fetched")


def _no_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


def _line(first: str, count: int) -> str:
    return one_line(first, 300) + (f" (and {count - 1} more)" if count > 1 else "")


def _place(path: typing.Iterable[str | int]) -> str:
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return f"{place.removeprefix('.')}: " if place else ""


def _of_dict(given: dict[str, Any]) -> dict[str, Any]:
    given = _unwrapped(given)
    own = given.get("type") == "json_schema" and isinstance(given.get("schema"), Mapping)
    if given.get("type") == "json_schema" and not own:
        shape = '{"type": "json_schema", "name": …, "schema": {…}}'
        raise BadInput(f"--schema: this format has no schema; write it as {shape}")
    if own and given.get("strict") is False:
        return given
    schema = given["schema"] if own else given
    name = given.get("name") if own else schema.get("title")
    form = _form(str(name or ""), StrictSchema(schema, "--schema", lenient=False).root())
    if own and "description" in given:
        form["description"] = given["description"]
    return form


def _unwrapped(given: dict[str, Any]) -> dict[str, Any]:
    """A format out of what may stand around it: ``text``, or the form of chat completions."""
    inner = given.get("format")
    if isinstance(inner, Mapping) and not given.keys() & {"type", "properties", "$ref"}:
        given = dict(inner)
    inner = given.get("json_schema")
    if given.get("type") == "json_schema" and isinstance(inner, Mapping):
        return {"type": "json_schema", "name": "answer", **inner}
    if isinstance(given.get("schema"), Mapping) and "name" in given and "type" not in given:
        return {"type": "json_schema", **given}
    return given


def _of_class(given: type[Any]) -> dict[str, Any]:
    import pydantic

    try:
        schema = pydantic.TypeAdapter(given).json_schema()
    except Exception as error:
        raise BadInput(f"--schema: {_no_schema_of(given, error)}") from None
    return _form(given.__name__, StrictSchema(schema, "--schema", lenient=True).root())


def _no_schema_of(given: type[Any], error: Exception) -> str:
    """Why Pydantic makes no schema of the class, and which of its fields it is about."""
    import pydantic

    name = given.__name__
    if isinstance(error, pydantic.PydanticUserError):
        for field, hint in _hints_of(given).items():
            try:
                pydantic.TypeAdapter(hint).json_schema()
            except pydantic.PydanticUserError:
                plain = isinstance(hint, type) and not typing.get_origin(hint)
                kind = hint.__name__ if plain else str(hint)
                return (
                    f"Pydantic makes no schema of {name}: JSON can't hold its field {field}, which "
                    f"is {_type_words(kind)}; give it a type such as str, float or a list of these"
                )
            except Exception:  # noqa: S112 - a name that is not known here says nothing
                continue
    # Messages quote their own internals from the second sentence on.
    why = one_line(str(error).partition("\n")[0])
    return f"Pydantic makes no schema of {name}: {_type_words(why)}"


def _hints_of(given: type[Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(given, include_extras=True)
    except Exception:  # names that are not known where the class is from
        return {}


def _form(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    # The OpenAPI description: a-z, A-Z, 0-9, underscores and dashes, 64 of them at most.
    clean = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "answer"
    return {"type": "json_schema", "name": clean, "schema": schema, "strict": True}
