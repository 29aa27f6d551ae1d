"""A JSON schema as strict mode takes it, which knows a part of JSON Schema only.

OpenAI's guide "Structured model outputs" says which part: what can be said in it is rewritten, the
rest refused.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bgmagic.errors import BadInput
from bgmagic.text import kind_of, one_line

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

# OpenAI's guide "Structured model outputs", "Supported schemas".
_LEVELS, _PROPERTIES, _VALUES, _CHARACTERS = 10, 5_000, 1_000, 120_000

_WAY_OUT = (
    'say it otherwise, or give the API\'s own {"type": "json_schema", "name": …, "schema": …, '
    '"strict": false}, which a model follows less exactly'
)

_LOOKAROUND = re.compile(r"\(\?<?[=!]")


class StrictSchema:
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
        self._check_targets(made)
        self._check_size(made)
        return made

    def _check_targets(self, made: Mapping[str, Any]) -> None:
        """That what is sent holds the target of each of its references."""
        for node in _nodes(made):
            if "$ref" in node and _pointed(made, str(node["$ref"])) is None:
                self._refuse_reference(node["$ref"], "")

    def _check_size(self, made: Mapping[str, Any]) -> None:
        nodes = list(_nodes(made))
        fields = [name for node in nodes for name in node.get("properties", ())]
        values = [value for node in nodes for value in node.get("enum", ())]
        words = [*fields, *values, *(node["const"] for node in nodes if "const" in node)]
        words += [name for node in nodes for name in node.get("$defs", ())]
        for count, most, what in (
            (_depth(made, made, {}), _LEVELS, "levels of objects within objects"),
            (len(fields), _PROPERTIES, "fields in all"),
            (len(values), _VALUES, "values of choices in all"),
            (sum(len(word) for word in words if isinstance(word, str)), _CHARACTERS,
             "characters in names and choices"),
        ):  # fmt: skip
            if count > most:
                self._refuse(f"{count:,} {what}", "", f"it takes {most:,}; make it smaller")

    def _node(self, node: Any, place: str) -> dict[str, Any]:
        if not isinstance(node, Mapping):
            self._refuse("what may be anything", place, "give it a type")
        outside = len(self._inside)
        made = self._rewritten(self._joined(node, place), place)
        del self._inside[outside:]
        return made

    def _rewritten(self, node: Mapping[str, Any], place: str) -> dict[str, Any]:
        node = self._without_tuple(node, place)
        made = {key: value for key, value in node.items() if key in _KEPT}
        self._check(node, made, place)
        self._describe(node, made)
        if "type" not in made and ("enum" in made or "const" in made):
            made["type"] = self._type_of(made.get("enum", [made.get("const")]), place)
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

    def _without_tuple(self, node: Mapping[str, Any], place: str) -> Mapping[str, Any]:
        """A tuple of one type as a list of exactly so many."""
        items = node.get("prefixItems")
        if not isinstance(items, list | tuple) or not items:
            return node
        count = len(items)
        exactly = node.get("minItems") == count and (
            node.get("maxItems") == count or node.get("items") is False
        )
        bare = [_untitled(item) for item in items]
        if not exactly or any(item != bare[0] for item in bare):
            advice = "use an object with a field for each, or a list of one type"
            self._refuse("a tuple of several types or of any length", place, advice)
        kept = {key: value for key, value in node.items() if key != "prefixItems"}
        return kept | {"items": bare[0], "minItems": count, "maxItems": count}

    def _describe(self, node: Mapping[str, Any], made: dict[str, Any]) -> None:
        """Say in the description what a hint of the type says and strict mode has no word for."""
        notes = []
        if isinstance(node.get("format"), str) and "format" not in made:
            notes.append(f"Format: {node['format']}.")
        if isinstance(node.get("contentEncoding"), str):
            notes.append(f"Encoding: {node['contentEncoding']}.")
        if node.get("contentMediaType") == "application/json":
            notes.append("A text that is JSON.")
        elif isinstance(node.get("contentMediaType"), str):
            notes.append(f"Content: {node['contentMediaType']}.")
        if node.get("uniqueItems"):
            notes.append("No item occurs twice.")
        if "pattern" in node and "pattern" not in made:
            notes.append(f"It matches the regular expression {node['pattern']}")
        known = made.get("description")
        notes = [*([known] if isinstance(known, str) and known else []), *notes]
        if notes:
            made["description"] = " ".join(notes)

    def _type_of(self, values: Any, place: str) -> str | list[str]:
        """The type, or the types, of the values of a choice."""
        found = [_JSON_TYPES.get(type(value)) for value in _listed(values)]
        if None in found or not found:
            self._refuse("a choice of lists or objects", place, "give it values of plain types")
        kinds = dict.fromkeys(kind for kind in found if kind)
        if "number" in kinds:
            kinds.pop("integer", None)
        names = list(kinds)
        return names[0] if len(names) == 1 else names

    def _joined(self, node: Mapping[str, Any], place: str) -> dict[str, Any]:
        """``node`` with what it refers to beside other things, and a lone allOf, put into it."""
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
        found = _pointed(self._schema, str(reference))
        if found is None:
            self._refuse_reference(reference, place)
        return {key: value for key, value in found.items() if key not in ("$defs", "definitions")}

    def _check(self, node: Mapping[str, Any], made: dict[str, Any], place: str) -> None:
        for key in _REFUSED:
            if key in node:
                self._refuse(key, place, _WAY_OUT)
        if not isinstance(node.get("type", ""), str | list | tuple):
            self._refuse(f"{kind_of(node['type'])} as a type", place, "write its name, as a text")
        if not _types(node) <= _TYPES:
            named = ", ".join(sorted(_types(node) - _TYPES))
            self._refuse(f"the type {named}", place, f"there are {', '.join(sorted(_TYPES))}")
        form = node.get("format")
        if isinstance(form, str) and form in _FORMATS:
            made["format"] = form
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
        # With fields, what may be there beside them is left out: such an answer fits as well.
        more = node.get("additionalProperties")
        open_ended = more if not fields else more and more is not True and not self._lenient
        if open_ended or (not fields and self._lenient is False):
            advice = "use a list of objects, each with its key and its value"
            self._refuse("an object with any keys", place, advice)
        required = node.get("required", ())
        if not isinstance(required, list | tuple):
            self._refuse("required that is no list", place, 'write the names of fields, ["name"]')
        made["type"] = node.get("type", "object")
        made["properties"] = {}
        for name, part in fields.items():
            inner = self._node(part, f"{place}.{name}")
            if not self._lenient and name not in required and not _nullable(inner):
                inner = {"anyOf": [inner, {"type": "null"}]}
            made["properties"][name] = inner
        made["required"] = list(fields)
        made["additionalProperties"] = False

    def _refuse_reference(self, reference: Any, place: str) -> typing.NoReturn:
        shown = one_line(str(reference), 80)
        advice = 'define it in $defs, and refer to it as "#/$defs/Name"'
        self._refuse(f"$ref {shown}", place, advice)

    def _refuse(self, what: str, place: str, advice: str) -> typing.NoReturn:
        where = f" (at {place.removeprefix('.')})" if place else ""
        raise BadInput(f"{self._label}: strict mode can't take {what}{where}: {advice}")


_JSON_TYPES: Mapping[type[Any], str] = {
    str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null",
}  # fmt: skip


def _listed(values: Any) -> Sequence[Any]:
    return values if isinstance(values, list | tuple) else ()


def _untitled(node: Any) -> Any:
    """``node`` without its own title: the items of a named tuple differ in that alone."""
    if not isinstance(node, Mapping):
        return node
    return {key: value for key, value in node.items() if key != "title"}


def _pointed(schema: Mapping[str, Any], reference: str) -> Mapping[str, Any] | None:
    """What a reference points at, "#" or "#/…" (RFC 6901); None if that is not in ``schema``."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    found: Any = schema
    for key in reference.split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """``node``, which is rewritten for strict mode, and all schemas in it."""
    yield node
    for key in ("$defs", "definitions"):
        for part in node.get(key, {}).values():
            yield from _nodes(part)
    for part in _children(node):
        yield from _nodes(part)


def _children(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from node.get("properties", {}).values()
    yield from node.get("anyOf", ())
    if "items" in node:
        yield node["items"]


def _depth(node: Mapping[str, Any], whole: Mapping[str, Any], known: dict[str, int]) -> int:
    """How many objects are within each other, references followed but where they recur.

    Args:
        known: the depth of each reference's target; 0 while it is being counted.
    """
    reference = str(node.get("$ref", ""))
    if reference and reference not in known:
        known[reference] = 0
        known[reference] = _depth(_pointed(whole, reference) or {}, whole, known)
    depths = [_depth(part, whole, known) for part in _children(node)]
    return max([*depths, known.get(reference, 0)]) + ("properties" in node)


def _types(node: Mapping[str, Any]) -> set[str]:
    found = node.get("type", ())
    return {found} if isinstance(found, str) else {str(kind) for kind in found}


def _nullable(node: Mapping[str, Any]) -> bool:
    return (
        "null" in _types(node)
        or None in node.get("enum", ())
        or any(_nullable(part) for part in node.get("anyOf", ()))
    )
