"""Frozen dataclasses from JSON: every key known, every type right, every number finite."""

from __future__ import annotations

import math
import types
from dataclasses import fields, is_dataclass
from reprlib import repr as shorten
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pliant.errors import CorruptFileError

_T = TypeVar("_T")
_NAMES = {str: "a text", bool: "true or false", int: "a whole number", float: "a finite number"}


def from_json(kind: type[_T], value: Any, where: str) -> _T:
    """An object of the dataclass `kind` from what `dataclasses.asdict` and JSON made of it.

    Fields are dataclasses, texts, numbers, `X | None`, `tuple[X, ...]` and `dict[str, X]` of
    these. Raises CorruptFileError, which names the place after `where`.
    """
    result: _T = _decode(kind, value, where)
    return result


def _decode(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, types.UnionType):
        inner, _ = get_args(kind)
        return None if value is None else _decode(inner, value, where)
    if get_origin(kind) is tuple:
        inner, _ = get_args(kind)
        items = _typed(list, "a list", value, where)
        return tuple(_decode(inner, item, f"{where}[{i}]") for i, item in enumerate(items))
    if get_origin(kind) is dict:
        _, inner = get_args(kind)
        entries = _typed(dict, "an object", value, where)
        return {key: _decode(inner, item, f"{where}.{key:.40}") for key, item in entries.items()}
    if is_dataclass(kind):
        return _record(kind, _typed(dict, "an object", value, where), where)
    return _scalar(kind, value, where)


def _record(kind: Any, entries: dict[str, Any], where: str) -> Any:
    odd = entries.keys() ^ {field.name for field in fields(kind)}
    if odd:
        raise CorruptFileError(f"{where}: unknown or missing keys: {', '.join(sorted(odd))[:200]}")
    hints = get_type_hints(kind)
    return kind(**{name: _decode(hints[name], entries[name], f"{where}.{name}") for name in hints})


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and type(value) is int:
        value = _float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise CorruptFileError(f"{where} is {shorten(value)}, not {_NAMES[kind]}")
    return value


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _typed(kind: type[_T], name: str, value: Any, where: str) -> _T:
    if not isinstance(value, kind):
        raise CorruptFileError(f"{where} is {shorten(value)}, not {name}")
    return value
