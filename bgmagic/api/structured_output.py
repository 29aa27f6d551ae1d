"""Makes the format for structured output of a Pydantic model or a JSON schema, and reads replies.

Strict mode takes a part of JSON Schema only (OpenAI's guide "Structured model outputs"): a schema
is rewritten where it can be, else refused. Pydantic and fastjsonschema are imported when used.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Mapping
from typing import Any

from bgmagic.errors import BadInput
from bgmagic.text import one_line

_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})

_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
)

_KEPT = frozenset({
    "type", "title", "description", "enum", "const", "pattern", "multipleOf", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems", "minLength", "maxLength",
})  # fmt: skip

_REFUSED = (
    "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties",
    "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties", "unevaluatedItems",
    "contains", "minContains", "maxContains", "prefixItems", "additionalItems",
)  # fmt: skip

_WAY_OUT = (
    'say it otherwise, or give the API\'s own {"type": "json_schema", "name": …, "schema": …, '
    '"strict": false}, which a model follows less exactly'
)

_LOOKAROUND = re.compile(r"\(\?<?[=!]")


def response_format(given: Any, label: str = "--schema") -> dict[str, Any]:
    """Make ``text.format``, as the API takes it, of what the user gives as a schema.

    Every field becomes required, since strict mode knows no others. In a JSON schema those that
    were not may be null; a Pydantic model says so itself, with ``| None``.

    Args:
        given: a Pydantic model or dataclass, a dataclass or a TypedDict (the class), a JSON schema
            as a dict, or such a format as a dict, which with ``"strict": false`` stays as it is.
        label: what a message begins with.

    Raises:
        BadInput: it is none of these, or can't be said in strict mode.
    """
    try:
        if isinstance(given, Mapping):
            return _of_dict(dict(given), label)
        if is_class(given):
            return _of_class(given, label)
    except RecursionError:
        raise BadInput(f"{label}: it holds itself without end; use $ref for that") from None
    kind = type(given).__name__
    if hasattr(type(given), "model_json_schema") or dataclasses.is_dataclass(given):
        raise BadInput(f"{label}: this is an object of {kind}; give the class {kind} itself")
    raise BadInput(f"{label} takes a Pydantic model or a JSON schema as a dict, not {kind}")


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
    try:
        return _by_class(text, given) if given is not None else _by_schema(text, form)
    except ValueError:
        raise
    except BaseException as error:  # validators are the user's code: they may even sys.exit
        why = one_line(f"{type(error).__name__}: {error}")
        raise ValueError(f"the validation itself failed with {why}") from None


def _by_class(text: str, given: type[Any]) -> Any:
    import pydantic

    try:
        return pydantic.TypeAdapter(given).validate_json(text)
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        first = f"{_place(found[0]['loc'])}{found[0]['msg']}"
        raise ValueError(_line(first, len(found))) from None


def _by_schema(text: str, form: Mapping[str, Any]) -> Any:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    import fastjsonschema

    check = fastjsonschema.compile(
        form.get("schema") or {},
        handlers=dict.fromkeys(("http", "https", "ftp", "file"), _fetch_nothing),
        use_default=False,
        use_formats=False,
    )
    try:
        check(value)
    except fastjsonschema.JsonSchemaValueException as error:
        # The library calls the whole "data", and the message begins with the field's place.
        told = re.sub(r"^data\b\.?", "", error.message).strip()
        raise ValueError(one_line(told, 300)) from None
    return value


def _fetch_nothing(address: str) -> None:
    raise LookupError(f"$ref {address} is not fetched")


def _no_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


def _line(first: str, count: int) -> str:
    return one_line(first, 300) + (f" (and {count - 1} more)" if count > 1 else "")


def _place(path: typing.Iterable[str | int]) -> str:
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return f"{place.removeprefix('.')}: " if place else ""


def _of_dict(given: dict[str, Any], label: str) -> dict[str, Any]:
    own = given.get("type") == "json_schema" and isinstance(given.get("schema"), Mapping)
    if own and given.get("strict") is False:
        return given
    schema = given["schema"] if own else given
    name = given.get("name") if own else schema.get("title")
    form = _form(str(name or ""), _StrictSchema(schema, label, lenient=False).root())
    if own and "description" in given:
        form["description"] = given["description"]
    return form


def _of_class(given: type[Any], label: str) -> dict[str, Any]:
    import pydantic

    try:
        schema = pydantic.TypeAdapter(given).json_schema()
    except Exception as error:
        why = one_line(str(error).partition("\n")[0])
        raise BadInput(f"{label}: Pydantic makes no schema of {given.__name__}: {why}") from None
    return _form(given.__name__, _StrictSchema(schema, label, lenient=True).root())


def _form(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    # The OpenAPI description: a-z, A-Z, 0-9, underscores and dashes, 64 of them at most.
    clean = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "answer"
    return {"type": "json_schema", "name": clean, "schema": schema, "strict": True}


class _StrictSchema:
    """Rewrites one schema for strict mode."""

    def __init__(self, schema: Mapping[str, Any], label: str, *, lenient: bool) -> None:
        """Take the ``schema`` of a class (``lenient``: that validates what is left out here) or
        of the user's own, by which alone a reply will be validated."""
        self._schema = schema
        self._label = label
        self._lenient = lenient
        self._inside: list[str] = []  # the references in whose targets the walk is

    def root(self) -> dict[str, Any]:
        made = self._node(self._schema, "")
        if "$ref" in made:
            made = {**self._node(self._target(made.pop("$ref"), ""), ""), **made}
        if made.get("type") != "object":
            self._refuse("a list or a choice as the whole", "", "put it into a field of an object")
        return made

    def _node(self, node: Any, place: str) -> dict[str, Any]:
        if not isinstance(node, Mapping):
            self._refuse("what may be anything", place, "give it a type")
        outside = len(self._inside)
        made = self._rewritten(self._joined(node, place), place)
        del self._inside[outside:]
        return made

    def _rewritten(self, node: Mapping[str, Any], place: str) -> dict[str, Any]:
        made = {key: value for key, value in node.items() if key in _KEPT}
        self._check(node, made, place)
        for key in ("$defs", "definitions"):
            if isinstance(node.get(key), Mapping):
                made[key] = {name: self._node(part, str(name)) for name, part in node[key].items()}
        choices = node.get("anyOf", node.get("oneOf"))
        if isinstance(choices, list | tuple):
            made["anyOf"] = [self._node(part, place) for part in choices]
        if "$ref" in node:
            self._target(node["$ref"], place)
            made["$ref"] = node["$ref"]
        if node.get("type") == "object" or "properties" in node:
            self._object(node, made, place)
        if "array" in _types(node):
            if "items" not in node:
                self._refuse("a list of anything", place, "give its items a type")
            made["items"] = self._node(node["items"], f"{place}[]")
        if not made.keys() & {"type", "anyOf", "$ref", "enum", "const"}:
            self._refuse("what may be anything", place, "give it a type")
        return made

    def _joined(self, node: Mapping[str, Any], place: str) -> dict[str, Any]:
        """Merge the target of a ``$ref`` that has neighbours, and a lone allOf, into ``node``."""
        for _ in range(50):
            whole = node.get("allOf")
            if isinstance(whole, list) and len(whole) == 1 and isinstance(whole[0], Mapping):
                node = {**whole[0], **{k: v for k, v in node.items() if k != "allOf"}}
            elif "$ref" in node and str(node["$ref"]) in self._inside:
                return {"$ref": node["$ref"]}  # it holds itself: what stood beside it is given up
            elif "$ref" in node and node.keys() & _KEPT:
                self._inside.append(str(node["$ref"]))
                rest = {key: value for key, value in node.items() if key != "$ref"}
                node = {**self._target(node["$ref"], place), **rest}
            else:
                break
        if "allOf" in node:
            self._refuse("allOf", place, _WAY_OUT)
        return dict(node)

    def _target(self, reference: Any, place: str) -> Mapping[str, Any]:
        found: Any = self._schema
        for key in str(reference).removeprefix("#").split("/")[1:]:
            key = key.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, Mapping) else None
        if not str(reference).startswith("#") or not isinstance(found, Mapping):
            self._refuse(f"$ref {one_line(str(reference), 80)}", place, "define it in $defs")
        return {key: value for key, value in found.items() if key not in ("$defs", "definitions")}

    def _check(self, node: Mapping[str, Any], made: dict[str, Any], place: str) -> None:
        for key in _REFUSED:
            if key in node:
                self._refuse(key, place, _WAY_OUT)
        if not _types(node) <= _TYPES:
            named = ", ".join(sorted(_types(node) - _TYPES))
            self._refuse(f"the type {named}", place, f"there are {', '.join(sorted(_TYPES))}")
        if node.get("format") in _FORMATS:
            made["format"] = node["format"]
        for key, unsaid in (
            ("uniqueItems", bool(node.get("uniqueItems"))),
            ("pattern", bool(_LOOKAROUND.search(str(node.get("pattern", ""))))),
        ):
            if unsaid and not self._lenient:
                self._refuse(key, place, _WAY_OUT)
            elif unsaid:
                made.pop(key, None)

    def _object(self, node: Mapping[str, Any], made: dict[str, Any], place: str) -> None:
        fields = node.get("properties", {})
        if not isinstance(fields, Mapping):
            self._refuse("properties that are no object", place, 'write {"name": {"type": …}}')
        if node.get("additionalProperties") or (not fields and self._lenient is False):
            advice = "use a list of objects, each with its key and its value"
            self._refuse("an object with any keys", place, advice)
        required = node.get("required", ())
        made["type"] = node.get("type", "object")
        made["properties"] = {}
        for name, part in fields.items():
            inner = self._node(part, f"{place}.{name}")
            if not self._lenient and name not in required and not _nullable(inner):
                inner = {"anyOf": [inner, {"type": "null"}]}
            made["properties"][name] = inner
        made["required"] = list(fields)
        made["additionalProperties"] = False

    def _refuse(self, what: str, place: str, advice: str) -> typing.NoReturn:
        where = f" (at {place.removeprefix('.')})" if place else ""
        raise BadInput(f"{self._label}: strict mode can't take {what}{where}: {advice}")


def _types(node: Mapping[str, Any]) -> set[str]:
    found = node.get("type", ())
    return {found} if isinstance(found, str) else {str(kind) for kind in found}


def _nullable(node: Mapping[str, Any]) -> bool:
    return (
        "null" in _types(node)
        or None in node.get("enum", ())
        or any(_nullable(part) for part in node.get("anyOf", ()))
    )
