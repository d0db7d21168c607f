"""Check a GBNF grammar before llama.cpp sees it.

llama.cpp recurses without bounds, misses left recursion behind empty rules, and lets some
grammars run for ever or end the process. What passes here does not; what is wrong is named with
its line. Knows the syntax and the sizes, nothing of vocabularies.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from pliant.errors import SamplingError

MAX_GRAMMAR_BYTES = 128 * 1024
MAX_RULES = 4000
MAX_NESTING = 64
MAX_REPEAT = 1000
# Ways to start a rule, and ways to go on after a character: llama.cpp tries them all per token.
MAX_STARTS = 4096
MAX_CONTINUATIONS = 128
MAX_REPEAT_OF_EMPTY = 8
MAX_RULE_DEPTH = 100

_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_TOKEN = re.compile(r"!?<(?:\[[0-9]{1,9}\]|[^\[>][^>\n]*)>")
_RANGE = re.compile(r"\{[ \t]*([0-9]{1,9})[ \t]*(,[ \t]*([0-9]{1,9})?[ \t]*)?\}")
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_ESCAPES = frozenset('trn\\"[]-')


@dataclass
class _Item:
    """`terminals` characters or one token, or a reference to `rule`; repeated min..max times."""

    terminals: int = 0
    rule: str | None = None
    min_times: int = 1
    max_times: int | None = 1


_Alternatives = list[list[_Item]]


@dataclass
class _Rules:
    """The parsed grammar; groups are rules of their own."""

    by_name: dict[str, _Alternatives] = field(default_factory=dict)


def check(grammar: str) -> None:
    """Raise SamplingError, saying what and where, unless llama.cpp can run `grammar` safely."""
    if "\0" in grammar:
        raise SamplingError("grammar holds a NUL character")
    try:
        size = len(grammar.encode())
    except UnicodeEncodeError as error:
        raise SamplingError("grammar is not valid Unicode (a lone surrogate)") from error
    if size > MAX_GRAMMAR_BYTES:
        raise SamplingError(f"grammar has {size} bytes; at most {MAX_GRAMMAR_BYTES} are taken")
    rules = _Parser(grammar).parse()
    if "root" not in rules.by_name:
        raise SamplingError("grammar has no rule called root")
    _check_references(rules)
    _Analysis(rules).run()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._pos = 0
        self._rules = _Rules()

    def parse(self) -> _Rules:
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
        if name in self._rules.by_name:
            raise self._error(f"rule {name} is defined twice")
        self._define(name, self._alternatives(nesting=0))
        if self._peek() not in ("", "\r", "\n"):
            raise self._error(f"unexpected {self._peek()!r}")
        self._skip(_SPACE_AND_LINES)

    def _define(self, name: str, alternatives: _Alternatives) -> None:
        if len(self._rules.by_name) >= MAX_RULES:
            raise self._error(f"more than {MAX_RULES} rules and groups")
        self._rules.by_name[name] = alternatives

    def _alternatives(self, nesting: int) -> _Alternatives:
        if nesting > MAX_NESTING:
            raise self._error(f"groups nested deeper than {MAX_NESTING}")
        alternatives = [self._sequence(nesting)]
        while self._peek() == "|":
            self._pos += 1
            self._skip(_SPACE_AND_LINES)
            alternatives.append(self._sequence(nesting))
        return alternatives

    def _sequence(self, nesting: int) -> list[_Item]:
        space = _SPACE_AND_LINES if nesting else _SPACE
        items: list[_Item] = []
        while (kind := self._peek()) not in ("", "|", ")", "\r", "\n"):
            if kind in "*+?{":
                self._repetition(items)
            else:
                items.append(self._item(kind, nesting))
            self._skip(space)
        return items

    def _item(self, kind: str, nesting: int) -> _Item:
        if kind == '"':
            return _Item(terminals=self._characters('"'))
        if kind == "[":
            return self._character_class()
        if kind == "(":
            return self._group(nesting)
        if kind == ".":
            self._pos += 1
            return _Item(terminals=1)
        if kind in "<!":
            self._match(_TOKEN, "a token such as <[42]> or <name>")
            return _Item(terminals=1)
        return _Item(rule=self._match(_NAME, "a string, a class, a group or a rule name"))

    def _group(self, nesting: int) -> _Item:
        self._pos += 1
        self._skip(_SPACE_AND_LINES)
        # A space cannot be part of a rule's name, so this one is nobody else's.
        name = f"group {self._pos}"
        alternatives = self._alternatives(nesting + 1)
        if self._peek() != ")":
            raise self._error("expected )")
        self._pos += 1
        self._define(name, alternatives)
        return _Item(rule=name)

    def _character_class(self) -> _Item:
        if self._text.startswith("[^", self._pos):
            self._pos += 1
        if not self._characters("]"):
            raise self._error("empty character class")
        return _Item(terminals=1)

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

    def _repetition(self, items: list[_Item]) -> None:
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


def _check_references(rules: _Rules) -> None:
    for alternatives in rules.by_name.values():
        for items in alternatives:
            for item in items:
                if item.rule is not None and item.rule not in rules.by_name:
                    raise SamplingError(f"grammar uses the rule {item.rule}, which it lacks")


class _Analysis:
    """Finds rules that can be empty, left recursion, and choices too many to try."""

    def __init__(self, rules: _Rules) -> None:
        self._rules = rules.by_name
        self._empty = self._nullable_rules()
        self._starts: dict[str, int] = {}

    def run(self) -> None:
        for name in self._rules:
            self._count_starts(name, ())
        for alternatives in self._rules.values():
            for items in alternatives:
                self._check_sequence(items)

    def _nullable_rules(self) -> set[str]:
        users: dict[str, list[str]] = {name: [] for name in self._rules}
        for name, alternatives in self._rules.items():
            for item in (item for items in alternatives for item in items if item.rule):
                users[item.rule or ""].append(name)
        empty: set[str] = set()
        pending = list(self._rules)
        while pending:
            name = pending.pop()
            if name not in empty and any(
                all(self._may_be_empty(item, empty) for item in items)
                for items in self._rules[name]
            ):
                empty.add(name)
                pending.extend(users[name])
        return empty

    @staticmethod
    def _may_be_empty(item: _Item, empty: set[str]) -> bool:
        if item.min_times == 0:
            return True
        return item.terminals == 0 if item.rule is None else item.rule in empty

    def _count_starts(self, name: str, path: tuple[str, ...]) -> int:
        """Ways to reach a first character of rule `name`; refuses left recursion."""
        if name in self._starts:
            return self._starts[name]
        if name in path:
            shown = " -> ".join(_shown(rule) for rule in (*path[path.index(name) :], name))
            raise SamplingError(f"grammar is left-recursive: {shown}")
        if len(path) > MAX_RULE_DEPTH:
            raise SamplingError(f"grammar begins rules inside rules deeper than {MAX_RULE_DEPTH}")
        inner = (*path, name)
        count = sum(
            self._count(items, lambda rule: self._count_starts(rule, inner))
            for items in self._rules[name]
        )
        if count > MAX_STARTS:
            raise SamplingError(
                f"grammar has {count} ways to start {_shown(name)}; at most {MAX_STARTS} are taken"
            )
        self._starts[name] = count
        return count

    def _count(self, items: list[_Item], starts_of: Callable[[str], int]) -> int:
        count = 0
        for item in items:
            repeats = 1
            if item.rule is None:
                count += 1 if item.terminals else 0
            else:
                if item.rule in self._empty:
                    repeats = max(item.min_times, item.max_times or 1, 1)
                count += repeats * starts_of(item.rule)
            if not self._may_be_empty(item, self._empty):
                break
        return count

    def _check_sequence(self, items: list[_Item]) -> None:
        for index, item in enumerate(items):
            if item.rule in self._empty:
                self._check_repeat_of_empty(item)
            continuations = self._count(items[index + 1 :], self._starts.__getitem__)
            if continuations > MAX_CONTINUATIONS and self._may_be_empty(
                items[index + 1], self._empty
            ):
                raise SamplingError(
                    f"grammar has {continuations} ways to go on at one place; "
                    f"at most {MAX_CONTINUATIONS} are taken"
                )

    @staticmethod
    def _check_repeat_of_empty(item: _Item) -> None:
        if (item.max_times or item.min_times) > MAX_REPEAT_OF_EMPTY:
            raise SamplingError(
                f"grammar repeats {_shown(item.rule)}, which can be empty, more than "
                f"{MAX_REPEAT_OF_EMPTY} times"
            )


def _shown(rule: str | None) -> str:
    return "a group" if rule is None or " " in rule else rule
