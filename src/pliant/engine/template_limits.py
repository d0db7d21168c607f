"""Bounds on what a chat template may make: no value much larger than what it was given.

Every operation that can make a large text out of small ones is checked before it runs. What is
left, an operation can only grow its input by a small factor.
"""

import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from jinja2.sandbox import SandboxedEnvironment

from pliant.errors import TemplateError

MAX_TEXT = 16 * 1024 * 1024
MAX_WIDTH = 10_000

BINARY_OPERATORS = frozenset(["*", "**", "%", "+"])
_WIDTH_FILTERS = ("center", "indent", "wordwrap", "batch", "slice")
_WIDTH_METHODS = frozenset(["center", "ljust", "rjust", "zfill", "expandtabs"])
_WIDE_FORMAT = re.compile(r"[0-9]{5}|\{[^{}]*:[^{}]*\{|%[^a-zA-Z%]*\*")


def check_length(length: int) -> None:
    """Raises TemplateError if a value of so many characters or elements is too large."""
    if length > MAX_TEXT:
        raise TemplateError(f"the chat template makes a value of {length} elements")


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Raises TemplateError if the result would be too large."""
    if operator == "+":
        check_length(_length(left) + _length(right))
    elif operator == "*":
        for value, times in ((left, right), (right, left)):
            if isinstance(times, int):
                check_length(_length(value) * times)
    elif operator == "**":
        if not isinstance(right, (int, float)) or abs(right) > 64:
            raise TemplateError("the chat template raises to a power over 64")
    elif isinstance(left, str):
        check_format(left)


def check_call(function: Any, args: tuple[Any, ...]) -> None:
    """Raises TemplateError for a method of a text that would make too large a one."""
    method = getattr(function, "__wrapped__", function)
    text = getattr(method, "__self__", None)
    if not isinstance(text, str):
        return
    name = method.__name__
    if name in _WIDTH_METHODS:
        _check_widths(args)
    elif name in ("format", "format_map"):
        check_format(text)
    elif name == "replace" and len(args) >= 2:
        _check_replace(text, args[0], args[1])
    elif name == "join" and args and isinstance(args[0], (list, tuple, dict)):
        _check_join(text, args[0])


def check_format(text: str) -> None:
    """Raises TemplateError for format strings with a width of five digits, or one computed."""
    if _WIDE_FORMAT.search(text):
        raise TemplateError("the chat template formats with too large a width")


def concatenate(values: Iterable[Any]) -> str:
    """What the operator ~ does."""
    texts = [str(value) for value in values]
    check_length(sum(map(len, texts)))
    return "".join(texts)


def guard_filters(environment: SandboxedEnvironment) -> None:
    """Put the checks in front of the filters that need them."""
    filters = environment.filters
    for name in _WIDTH_FILTERS:
        filters[name] = _guarded(filters[name], _check_widths)
    filters["format"] = _guarded(filters["format"], lambda args: check_format(str(args[0])))
    filters["replace"] = _guarded(filters["replace"], lambda args: _check_replace(*args[1:4]))
    join = filters["join"]

    @wraps(join)
    def checked_join(context: Any, value: Any, d: str = "", attribute: Any = None) -> Any:
        items = list(value)
        _check_join(d, items)
        return join(context, items, d, attribute)

    filters["join"] = checked_join


def _guarded(
    function: Callable[..., Any], check: Callable[[tuple[Any, ...]], None]
) -> Callable[..., Any]:
    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        check((*args, *kwargs.values()))
        return function(*args, **kwargs)

    return guarded


def _check_widths(args: tuple[Any, ...]) -> None:
    for value in args:
        if isinstance(value, int) and value > MAX_WIDTH:
            raise TemplateError(f"the chat template asks for a width of {value}")


def _check_replace(text: Any, old: Any, new: Any) -> None:
    text, old, new = str(text), str(old), str(new)
    check_length(len(text) + text.count(old) * len(new))


def _check_join(separator: Any, items: Iterable[Any]) -> None:
    lengths = [len(item) if isinstance(item, str) else 0 for item in items]
    check_length(sum(lengths) + len(str(separator)) * len(lengths))


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes, list, tuple)) else 0
