"""Bounds on what a chat template can make: no value much larger than what it was given.

The size of a value counts what is in it, so that a list of one long text a thousand times is as
large as it is when printed. Sizes are checked before an operation that can make a large value out
of small ones, and again of everything that comes out; the sum of all that is bounded, too.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from jinja2.sandbox import SandboxedEnvironment
from jinja2.utils import Namespace

from pliant.errors import TemplateError

MAX_TEXT = 16 * 1024 * 1024
MAX_MADE = 16 * MAX_TEXT
MAX_WIDTH = 10_000
MAX_BITS = 4096
MAX_DEPTH = 200
# What an element of a list takes beside its content, in characters' memory.
ELEMENT_SIZE = 64

BINARY_OPERATORS = frozenset(["*", "**", "%", "+"])
_WIDTH_METHODS = frozenset(["center", "ljust", "rjust", "zfill", "expandtabs"])
_WIDE_FORMAT = re.compile(r"[0-9]{5}|\{[^{}]*:[^{}]*\{|%[^a-zA-Z%]*\*")

_made: ContextVar[int] = ContextVar("made", default=0)


@contextmanager
def counting() -> Iterator[None]:
    """Within, what `measured` is given may not sum up to more than MAX_MADE."""
    token = _made.set(0)
    try:
        yield
    finally:
        _made.reset(token)


def measured(value: Any) -> Any:
    """`value`; raises TemplateError if it, or all so far together, are too large."""
    size = _size(value)
    check_size(size)
    _made.set(_made.get() + size)
    if _made.get() > MAX_MADE:
        raise TemplateError(f"the chat template makes values of size {_made.get()} in all")
    return value


def check_size(size: int) -> None:
    """Raises TemplateError if a value of this size is too large."""
    if size > MAX_TEXT:
        raise TemplateError(f"the chat template makes a value of size {size}")


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Raises TemplateError if the result would be too large."""
    if operator == "+":
        check_size(_size(left) + _size(right))
    elif operator == "*":
        _check_bits(_bits(left) + _bits(right))
        for value, times in ((left, right), (right, left)):
            if isinstance(times, int):
                check_size(_size(value) * times)
    elif operator == "**":
        if not isinstance(right, (int, float)) or abs(right) > 64:
            raise TemplateError("the chat template raises to a power over 64")
        _check_bits(_bits(left) * int(abs(right)))
    elif isinstance(left, str):
        _check_format(left, right)


def check_call(function: Any, arguments: tuple[Any, ...]) -> None:
    """Raises TemplateError for too large arguments, or a method of a text that multiplies them."""
    check_size(_size(arguments))
    method = getattr(function, "__wrapped__", function)
    text = getattr(method, "__self__", None)
    if not isinstance(text, str):
        return
    name = method.__name__
    if name in _WIDTH_METHODS:
        _check_widths(arguments)
    elif name in ("format", "format_map"):
        _check_format(text, arguments)
    elif name == "replace" and len(arguments) >= 2:
        _check_replace(text, arguments[0], arguments[1])
    elif name == "join" and arguments and isinstance(arguments[0], (list, tuple, dict)):
        _check_join(text, arguments[0])


def concatenate(values: Iterable[Any]) -> str:
    """What the operator ~ does."""
    return "".join(map(str, values))


def guard_filters(environment: SandboxedEnvironment) -> None:
    """Measure what goes into and comes out of every filter."""
    filters = environment.filters
    checks: dict[str, Callable[[tuple[Any, ...]], None]] = {
        **dict.fromkeys(("center", "batch", "slice"), _check_widths),
        "indent": _check_lines,
        "wordwrap": _check_lines,
        "format": lambda arguments: _check_format(str(arguments[0]), arguments[1:]),
        "replace": lambda arguments: _check_replace(*arguments[1:4]),
    }
    for name, function in filters.items():
        filters[name] = _guarded(function, checks.get(name))
    join = filters["join"]

    @wraps(join)
    def checked_join(context: Any, value: Any, d: str = "", attribute: Any = None) -> Any:
        items = list(value)
        _check_join(d, items)
        return join(context, items, d, attribute)

    filters["join"] = checked_join


def _guarded(
    function: Callable[..., Any], check: Callable[[tuple[Any, ...]], None] | None
) -> Callable[..., Any]:
    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        arguments = (*args, *kwargs.values())
        check_size(_size(arguments))
        if check is not None:
            check(arguments)
        return measured(function(*args, **kwargs))

    return guarded


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise TemplateError(f"the chat template makes a number of {bits} bits")


def _check_format(text: str, values: Any) -> None:
    """Also refuses widths of five digits, and computed ones."""
    if _WIDE_FORMAT.search(text):
        raise TemplateError("the chat template formats with too large a width")
    check_size(len(text) + (text.count("{") + text.count("%")) * _size(values))


def _check_widths(arguments: tuple[Any, ...]) -> None:
    for value in arguments:
        if isinstance(value, int) and value > MAX_WIDTH:
            raise TemplateError(f"the chat template asks for a width of {value}")


def _check_lines(arguments: tuple[Any, ...]) -> None:
    """What is put around lines may be text, and each character may become a line."""
    _check_widths(arguments)
    texts = sorted(len(value) for value in arguments if isinstance(value, str))
    if len(texts) > 1 and texts[0] > 0:
        check_size(texts[-2] * texts[-1])


def _check_replace(text: Any, old: Any, new: Any) -> None:
    text, old, new = str(text), str(old), str(new)
    check_size(len(text) + text.count(old) * len(new))


def _check_join(separator: Any, items: Iterable[Any]) -> None:
    values = list(items)
    check_size(_size(values) + len(str(separator)) * len(values))


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _size(value: Any, depth: int = 0, known: dict[int, int] | None = None) -> int:
    """Characters and weighted elements in `value`; what it holds twice counts twice."""
    if isinstance(value, (str, bytes)):
        return len(value)
    items = _items(value)
    if items is None:
        return 0
    if depth > MAX_DEPTH:
        raise TemplateError(f"the chat template nests values deeper than {MAX_DEPTH}")
    known = {} if known is None else known
    if id(value) not in known:
        known[id(value)] = 0  # Until it is known: a namespace can hold itself.
        inside = sum(_size(item, depth + 1, known) for item in items)
        known[id(value)] = ELEMENT_SIZE * len(items) + inside
    return known[id(value)]


def _items(value: Any) -> list[Any] | tuple[Any, ...] | None:
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, Namespace):
        value = value._Namespace__attrs
    return [*value, *value.values()] if isinstance(value, dict) else None
