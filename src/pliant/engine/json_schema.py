"""JSON Schema to GBNF: a grammar whose every sentence is JSON that the schema allows.

A keyword that a grammar cannot hold to is refused by name, never ignored. Objects are closed and
keep the order of `properties`; oneOf is read as anyOf.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from pliant.engine.json_rules import FORMATS, SHARED_RULES, integer_range
from pliant.errors import SamplingError

MAX_SCHEMA_CHARACTERS = 128 * 1024
MAX_NESTING = 64

_ANNOTATIONS = frozenset(
    ("$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "title", "description")
    + ("default", "examples", "deprecated", "readOnly", "writeOnly", "format", "nullable")
    + ("contentEncoding", "contentMediaType")
)
_COMBINING = ("$ref", "anyOf", "oneOf", "allOf", "enum", "const")
_KEYWORDS = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "uniqueItems"}),
    "string": frozenset({"minLength", "maxLength"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "number": frozenset[str](),
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
# Keywords that say something about one type only, supported or not.
_TYPE_OF_KEYWORD = {
    **{word: type_ for type_, words in _KEYWORDS.items() for word in words},
    **dict.fromkeys(("patternProperties", "propertyNames", "minProperties"), "object"),
    **dict.fromkeys(("maxProperties", "dependentRequired", "dependentSchemas"), "object"),
    **dict.fromkeys(("unevaluatedProperties", "dependencies"), "object"),
    **dict.fromkeys(("contains", "minContains", "maxContains", "unevaluatedItems"), "array"),
    "pattern": "string",
    "multipleOf": "integer",
}

_Schema = Mapping[str, Any]


def schema_to_gbnf(schema: Mapping[str, Any] | str) -> str:
    """The grammar for `schema`, an object or its text.

    Raises SamplingError naming the place and the keyword if it is no schema or uses more of
    JSON Schema than a grammar can hold to.
    """
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        if len(text) > MAX_SCHEMA_CHARACTERS:
            raise SamplingError(
                f"json_schema has {len(text)} characters; at most {MAX_SCHEMA_CHARACTERS} are taken"
            )
        parsed = json.loads(text)
        json.dumps(parsed, allow_nan=False)  # Python reads NaN and 1e999; JSON has neither.
    except (ValueError, TypeError, RecursionError) as error:
        raise SamplingError(f"json_schema is not JSON: {error}") from error
    return _Converter(parsed).convert()


class _Converter:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._rules: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def convert(self) -> str:
        root = self._visit(self._root, "#", 0)
        rules = {"root": root, **self._rules, **SHARED_RULES}
        return "\n".join(f"{name} ::= {body}" for name, body in rules.items())

    def _visit(self, schema: Any, where: str, depth: int) -> str:
        """A term (a rule's name) for `schema`."""
        if depth > MAX_NESTING:
            raise _error(where, f"nested deeper than {MAX_NESTING}")
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, Mapping):
            raise _error(where, "not a schema")
        combining = [keyword for keyword in _COMBINING if keyword in schema]
        if combining:
            return self._combined(combining[0], schema, where, depth)
        types = _types(schema, where)
        if not types:
            return "value"
        return self._any([self._typed(type_, schema, where, depth) for type_ in types])

    def _combined(self, keyword: str, schema: _Schema, where: str, depth: int) -> str:
        value = schema[keyword]
        inside = f"{where}/{keyword}"
        if keyword in ("enum", "const"):
            _only(schema, {keyword, "type"}, where)
            return self._constants(schema, where)
        _only(schema, {keyword}, where)
        if keyword == "$ref":
            return self._reference(value, where, depth)
        if not isinstance(value, list) or not value:
            raise _error(inside, "not a list of schemas")
        if keyword == "allOf" and len(value) > 1:
            raise _error(inside, "more than one schema is not supported")
        return self._any(
            [self._visit(item, f"{inside}/{i}", depth + 1) for i, item in enumerate(value)]
        )

    def _constants(self, schema: _Schema, where: str) -> str:
        values = [schema["const"]] if "const" in schema else schema["enum"]
        if not isinstance(values, list):
            raise _error(where, "enum is a list")
        types = _types({"type": schema["type"]}, where) if "type" in schema else None
        fitting = [value for value in values if types is None or _type_fits(value, types)]
        if not fitting:
            raise _error(where, "no value is allowed")
        return self._rule(" | ".join(_literal(json.dumps(v, ensure_ascii=False)) for v in fitting))

    def _reference(self, reference: Any, where: str, depth: int) -> str:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise _error(where, f"$ref {reference!r} does not point into this schema")
        if reference in self._names:
            return self._names[reference]
        target = self._root
        for part in filter(None, unquote(reference[1:]).split("/")):
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, Mapping) or key not in target:
                raise _error(where, f"$ref {reference} points nowhere")
            target = target[key]
        name = self._names[reference] = f"ref{len(self._names)}"
        self._rules[name] = self._visit(target, reference, depth + 1)
        return name

    def _typed(self, type_: str, schema: _Schema, where: str, depth: int) -> str:
        mine = {word for word, owner in _TYPE_OF_KEYWORD.items() if owner == type_}
        if type_ == "number":
            mine = {word for word, owner in _TYPE_OF_KEYWORD.items() if owner == "integer"}
        for word in mine - _KEYWORDS[type_]:
            if word in schema:
                raise _error(where, f"{word} is not supported for {type_}")
        if type_ == "object":
            return self._object(schema, where, depth)
        if type_ == "array":
            return self._array(schema, where, depth)
        if type_ == "string":
            return self._string(schema, where)
        if type_ == "integer":
            return self._integer(schema, where)
        return type_

    def _object(self, schema: _Schema, where: str, depth: int) -> str:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, Mapping) or not _is_list_of_text(required):
            raise _error(where, "properties is an object and required a list of names")
        properties = {**properties, **{n: True for n in required if n not in properties}}
        if not properties:
            return self._open_object(schema.get("additionalProperties", True), where, depth)
        always = frozenset(required)
        members = []
        for name, inner in properties.items():
            term = self._visit(inner, f"{where}/properties/{name}", depth + 1)
            key = _literal(json.dumps(name, ensure_ascii=False))
            members.append((self._rule(f'{key} ws ":" ws {term}'), name in always))
        return self._rule(f'"{{" ws {self._members(members)} ws "}}"')

    def _members(self, members: list[tuple[str, bool]]) -> str:
        """Members in order, optional ones or not, with commas between those that are there."""
        first = after = '""'
        for member, is_required in reversed(members):
            with_comma = f'ws "," ws {member} {after}'
            alone = f"{member} {after}"
            first = self._rule(alone if is_required else f"{alone} | {first}")
            after = self._rule(with_comma if is_required else f"{with_comma} | {after}")
        return first

    def _open_object(self, values: Any, where: str, depth: int) -> str:
        if values is True:
            return "object"
        if values is False:
            return self._rule('"{" ws "}"')
        term = self._visit(values, f"{where}/additionalProperties", depth + 1)
        member = self._rule(f'string ws ":" ws {term}')
        return self._rule(f'"{{" ws ({member} (ws "," ws {member})*)? ws "}}"')

    def _array(self, schema: _Schema, where: str, depth: int) -> str:
        if schema.get("uniqueItems"):
            raise _error(where, "uniqueItems is not supported")
        low, high = _sizes(schema, "minItems", "maxItems", where)
        low = low or 0
        prefix = schema.get("prefixItems", [])
        items = schema.get("items", True)
        if prefix:
            if not isinstance(prefix, list) or low > len(prefix) or "maxItems" in schema:
                raise _error(where, "prefixItems is only supported for exactly these items")
            terms = [
                self._visit(item, f"{where}/prefixItems/{i}", depth + 1)
                for i, item in enumerate(prefix)
            ]
            return self._rule('"[" ws ' + ' ws "," ws '.join(terms) + ' ws "]"')
        if items is False or high == 0:
            return self._rule('"[" ws "]"')
        term = self._visit(items, f"{where}/items", depth + 1)
        more = self._rule(f'ws "," ws {term}')
        rest = f"{more}{{{max(low - 1, 0)},{'' if high is None else high - 1}}}"
        body = f"{term} {rest}" if low else f"({term} {rest})?"
        return self._rule(f'"[" ws {body} ws "]"')

    def _string(self, schema: _Schema, where: str) -> str:
        low, high = _sizes(schema, "minLength", "maxLength", where)
        if low is None and high is None:
            rule = FORMATS.get(str(schema.get("format")))
            return self._rule(rule) if rule else "string"
        return self._rule(f'"\\"" char{{{low or 0},{"" if high is None else high}}} "\\""')

    def _integer(self, schema: _Schema, where: str) -> str:
        bounds = {word: schema[word] for word in _KEYWORDS["integer"] if word in schema}
        if not bounds:
            return "integer"
        for word, value in bounds.items():
            if not isinstance(value, int) or isinstance(value, bool):
                raise _error(where, f"{word} is a whole number for type integer")
        lows = [bounds[w] + extra for w, extra in _LOWS.items() if w in bounds]
        highs = [bounds[w] - extra for w, extra in _HIGHS.items() if w in bounds]
        body = integer_range(max(lows, default=None), min(highs, default=None))
        if body is None:
            raise _error(where, "no integer is allowed")
        return self._rule(body)

    def _any(self, terms: list[str]) -> str:
        return terms[0] if len(terms) == 1 else self._rule(" | ".join(terms))

    def _rule(self, body: str) -> str:
        name = f"r{len(self._rules)}"
        self._rules[name] = body
        return name


_LOWS = {"minimum": 0, "exclusiveMinimum": 1}
_HIGHS = {"maximum": 0, "exclusiveMaximum": 1}


def _types(schema: _Schema, where: str) -> list[str]:
    """The types `schema` allows, guessed from its keywords if it does not say; none for any."""
    _only(schema, {"type"} | set(_TYPE_OF_KEYWORD), where)
    if "type" in schema:
        found = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    else:
        found = sorted({_TYPE_OF_KEYWORD[word] for word in schema if word in _TYPE_OF_KEYWORD})
    for type_ in found:
        if not isinstance(type_, str) or type_ not in _KEYWORDS:
            raise _error(where, f"unknown type {type_!r}")
    return found


def _type_fits(value: Any, types: list[str]) -> bool:
    if value is None:
        return "null" in types
    if isinstance(value, bool):
        return "boolean" in types
    if isinstance(value, int):
        return "integer" in types or "number" in types
    name = {float: "number", str: "string", list: "array", dict: "object"}[type(value)]
    return name in types


def _only(schema: _Schema, known: set[str], where: str) -> None:
    for keyword in schema:
        if keyword not in known and keyword not in _ANNOTATIONS:
            raise _error(where, f"{keyword} is not supported here")


def _sizes(schema: _Schema, low: str, high: str, where: str) -> tuple[int | None, int | None]:
    for keyword in (low, high):
        value = schema.get(keyword, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise _error(where, f"{keyword} is a whole number, at least 0")
    if low in schema and high in schema and schema[low] > schema[high]:
        raise _error(where, f"{low} is more than {high}")
    return schema.get(low), schema.get(high)


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _error(where: str, message: str) -> SamplingError:
    return SamplingError(f"json_schema, at {where}: {message}")
