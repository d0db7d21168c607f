"""Grammar rules that any JSON schema may need, and the integers of a range."""

from collections.abc import Iterator

SHARED_RULES = {
    "ws": '" "?',
    "char": r'[^"\\\x01-\x1f\x7f] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})',
    "string": r'"\"" char* "\""',
    "number": '"-"? ("0" | [1-9] [0-9]{0,14}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,14})',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "member": 'string ws ":" ws value',
    "object": '"{" ws (member (ws "," ws member)*)? ws "}"',
    "array": '"[" ws (value (ws "," ws value)*)? ws "]"',
    "date": '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])',
    "time": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? '
    '("Z" | [-+] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])',
    "hex": "[0-9a-fA-F]",
}
FORMATS = {
    "date": r'"\"" date "\""',
    "time": r'"\"" time "\""',
    "date-time": r'"\"" date "T" time "\""',
    "uuid": r'"\"" hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12} "\""',
}

_DIGITS = 15
_LIMIT = 10**_DIGITS - 1


def integer_range(low: int | None, high: int | None) -> str | None:
    """GBNF for the integers low..high (None: as far as 15 digits go); None if there is none."""
    low = -_LIMIT if low is None else max(low, -_LIMIT)
    high = _LIMIT if high is None else min(high, _LIMIT)
    parts = []
    if low < 0 and low <= high:
        below = " | ".join(_natural_range(max(1, -high), -low))
        parts.append(f'"-" ({below})')
    if high >= 0 and low <= high:
        parts += _natural_range(max(low, 0), high)
    return " | ".join(parts) or None


def _natural_range(low: int, high: int) -> Iterator[str]:
    """Alternatives for low..high, one or more per number of digits."""
    for digits in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (digits - 1) if digits > 1 else 0)
        last = min(high, 10**digits - 1)
        yield from _same_length(str(first), str(last))


def _same_length(low: str, high: str) -> Iterator[str]:
    if len(low) == 1:
        yield f"[{low}-{high}]"
        return
    rest = len(low) - 1
    zeros, nines = "0" * rest, "9" * rest
    if low[0] == high[0]:
        yield _prefixed(low[0], low[1:], high[1:])
        return
    first, last = int(low[0]), int(high[0])
    if low[1:] != zeros:
        yield _prefixed(low[0], low[1:], nines)
        first += 1
    if high[1:] != nines:
        last -= 1
    if first <= last:
        yield f"[{first}-{last}] [0-9]{{{rest}}}"
    if high[1:] != nines:
        yield _prefixed(high[0], zeros, high[1:])


def _prefixed(digit: str, low: str, high: str) -> str:
    return f'"{digit}" ({" | ".join(_same_length(low, high))})'
