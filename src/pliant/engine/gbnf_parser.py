"""Read GBNF, llama.cpp's grammar language, as far as checking it needs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pliant.errors import SamplingError

MAX_RULES = 4000
MAX_NESTING = 64
MAX_REPEAT = 1000

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_TOKEN = re.compile(r"!?<(?:\[[0-9]{1,9}\]|[^\[>][^>\n]*)>")
_RANGE = re.compile(r"\{[ \t]*([0-9]{1,9})[ \t]*(,[ \t]*([0-9]{1,9})?[ \t]*)?\}")
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_ESCAPES = frozenset('trn\\"[]-')


@dataclass
class Item:
    """`terminals` characters or one token, or a reference to `rule`; repeated min..max times."""

    terminals: int = 0
    rule: str | None = None
    min_times: int = 1
    max_times: int | None = 1


Alternatives = list[list[Item]]


class Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._pos = 0
        self._rules: dict[str, Alternatives] = {}

    def parse(self) -> dict[str, Alternatives]:
        """Rules by name; groups are rules of their own. Raises SamplingError with the line."""
        self._skip(_SPACE_AND_LINES)
        while self._pos < len(self._text):
            self._rule()
        return self._rules

    def _rule(self) -> None:
        name = self._match(_NAME, "a rule name")
        self._skip(_SPACE)
        if not self._text.startswith("::=", self._pos):
            raise self._error("expected ::=")
        self._pos += 3
        self._skip(_SPACE_AND_LINES)
        if name in self._rules:
            raise self._error(f"rule {name} is defined twice")
        self._define(name, self._alternatives(nesting=0))
        if self._peek() not in ("", "\r", "\n"):
            raise self._error(f"unexpected {self._peek()!r}")
        self._skip(_SPACE_AND_LINES)

    def _define(self, name: str, alternatives: Alternatives) -> None:
        if len(self._rules) >= MAX_RULES:
            raise self._error(f"more than {MAX_RULES} rules and groups")
        self._rules[name] = alternatives

    def _alternatives(self, nesting: int) -> Alternatives:
        if nesting > MAX_NESTING:
            raise self._error(f"groups nested deeper than {MAX_NESTING}")
        alternatives = [self._sequence(nesting)]
        while self._peek() == "|":
            self._pos += 1
            self._skip(_SPACE_AND_LINES)
            alternatives.append(self._sequence(nesting))
        return alternatives

    def _sequence(self, nesting: int) -> list[Item]:
        space = _SPACE_AND_LINES if nesting else _SPACE
        items: list[Item] = []
        while (kind := self._peek()) not in ("", "|", ")", "\r", "\n"):
            if kind in "*+?{":
                self._repetition(items)
            else:
                items.append(self._item(kind, nesting))
            self._skip(space)
        return items

    def _item(self, kind: str, nesting: int) -> Item:
        if kind == '"':
            return Item(terminals=self._characters('"'))
        if kind == "[":
            return self._character_class()
        if kind == "(":
            return self._group(nesting)
        if kind == ".":
            self._pos += 1
            return Item(terminals=1)
        if kind in "<!":
            self._match(_TOKEN, "a token such as <[42]> or <name>")
            return Item(terminals=1)
        return Item(rule=self._match(_NAME, "a string, a class, a group or a rule name"))

    def _group(self, nesting: int) -> Item:
        self._pos += 1
        self._skip(_SPACE_AND_LINES)
        # A space cannot be part of a rule's name, so this one is nobody else's.
        name = f"group {self._pos}"
        alternatives = self._alternatives(nesting + 1)
        if self._peek() != ")":
            raise self._error("expected )")
        self._pos += 1
        self._define(name, alternatives)
        return Item(rule=name)

    def _character_class(self) -> Item:
        if self._text.startswith("[^", self._pos):
            self._pos += 1
        if not self._characters("]"):
            raise self._error("empty character class")
        return Item(terminals=1)

    def _characters(self, end: str) -> int:
        """Skip the opening character and go past `end`; how many characters were between."""
        self._pos += 1
        count = 0
        while (character := self._peek()) != end:
            if not character:
                raise self._error(f"missing {end}")
            if character == "\\":
                self._escape()
            else:
                self._pos += 1
            count += 1
        self._pos += 1
        return count

    def _escape(self) -> None:
        kind = self._text[self._pos + 1 : self._pos + 2]
        if kind in _HEX_DIGITS:
            digits = self._text[self._pos + 2 : self._pos + 2 + _HEX_DIGITS[kind]]
            if not re.fullmatch(f"[0-9a-fA-F]{{{_HEX_DIGITS[kind]}}}", digits):
                raise self._error(f"\\{kind} takes {_HEX_DIGITS[kind]} hexadecimal digits")
            if not 0 < int(digits, 16) <= 0x10FFFF:
                raise self._error(f"no character has the number {digits}")
            self._pos += 2 + len(digits)
        elif kind and kind in _ESCAPES:
            self._pos += 2
        else:
            raise self._error(f"unknown escape \\{kind}")

    def _repetition(self, items: list[Item]) -> None:
        if not items or (items[-1].rule is None and items[-1].terminals == 0):
            raise self._error(f"nothing to repeat before {self._peek()}")
        item = items[-1]
        if (item.min_times, item.max_times) != (1, 1):
            raise self._error("put a repetition in parentheses to repeat it")
        low, high = self._times()
        if max(low, high or 0) > MAX_REPEAT:
            raise self._error(f"at most {MAX_REPEAT} repetitions are taken")
        if high is not None and high < low:
            raise self._error(f"the repetition {{{low},{high}}} has its ends swapped")
        item.min_times, item.max_times = low, high

    def _times(self) -> tuple[int, int | None]:
        simple = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self._peek())
        if simple:
            self._pos += 1
            return simple
        match = _RANGE.match(self._text, self._pos)
        if not match:
            raise self._error("expected a repetition such as {2}, {2,} or {2,5}")
        self._pos = match.end()
        low = int(match[1])
        if match[2] is None:
            return low, low
        return low, int(match[3]) if match[3] else None

    def _peek(self) -> str:
        return self._text[self._pos : self._pos + 1]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._pos)
        if match:
            self._pos = match.end()

    def _match(self, pattern: re.Pattern[str], what: str) -> str:
        match = pattern.match(self._text, self._pos)
        if not match:
            raise self._error(f"expected {what}")
        self._pos = match.end()
        return match[0]

    def _error(self, message: str) -> SamplingError:
        line = self._text.count("\n", 0, self._pos) + 1
        column = self._pos - self._text.rfind("\n", 0, self._pos)
        return SamplingError(f"grammar, line {line}, column {column}: {message}")
