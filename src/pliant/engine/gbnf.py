"""Check a GBNF grammar before llama.cpp sees it.

llama.cpp recurses without bounds, misses left recursion behind empty rules, and lets some
grammars run for ever or end the process. What passes here does not.
"""

from __future__ import annotations

from collections.abc import Callable

from pliant.engine.gbnf_parser import Alternatives, Item, Parser
from pliant.errors import SamplingError

MAX_GRAMMAR_BYTES = 128 * 1024
# Ways to start a rule, and ways to go on after a character: llama.cpp tries them all per token.
MAX_STARTS = 4096
MAX_CONTINUATIONS = 128
MAX_REPEAT_OF_EMPTY = 8
MAX_RULE_DEPTH = 100


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
    rules = Parser(grammar).parse()
    if "root" not in rules:
        raise SamplingError("grammar has no rule called root")
    _check_references(rules)
    _Analysis(rules).run()


def _check_references(rules: dict[str, Alternatives]) -> None:
    for alternatives in rules.values():
        for items in alternatives:
            for item in items:
                if item.rule is not None and item.rule not in rules:
                    raise SamplingError(f"grammar uses the rule {item.rule}, which it lacks")


class _Analysis:
    """Finds left recursion, and choices too many to try."""

    def __init__(self, rules: dict[str, Alternatives]) -> None:
        self._rules = rules
        self._empty = nullable_rules(rules)
        self._starts: dict[str, int] = {}

    def run(self) -> None:
        for name in self._rules:
            self._count_starts(name, ())
        for alternatives in self._rules.values():
            for items in alternatives:
                self._check_sequence(items)

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

    def _count(self, items: list[Item], starts_of: Callable[[str], int]) -> int:
        count = 0
        for item in items:
            count += self._ways_into(item, starts_of)
            if not _may_be_empty(item, self._empty):
                break
        return count

    def _ways_into(self, item: Item, starts_of: Callable[[str], int]) -> int:
        if item.rule is None:
            return 1 if item.terminals else 0
        repeats = max(item.min_times, item.max_times or 1) if item.rule in self._empty else 1
        return repeats * starts_of(item.rule)

    def _check_sequence(self, items: list[Item]) -> None:
        continuations = 0
        is_skipped = False  # Whether what follows may be empty.
        for item in reversed(items):
            if item.rule in self._empty:
                self._check_repeat_of_empty(item)
            if is_skipped and continuations > MAX_CONTINUATIONS:
                raise SamplingError(
                    f"grammar has {continuations} ways to go on at one place; "
                    f"at most {MAX_CONTINUATIONS} are taken"
                )
            is_skipped = _may_be_empty(item, self._empty)
            skipped = continuations if is_skipped else 0
            continuations = self._ways_into(item, self._starts.__getitem__) + skipped

    @staticmethod
    def _check_repeat_of_empty(item: Item) -> None:
        if (item.max_times or item.min_times) > MAX_REPEAT_OF_EMPTY:
            raise SamplingError(
                f"grammar repeats {_shown(item.rule)}, which can be empty, more than "
                f"{MAX_REPEAT_OF_EMPTY} times"
            )


def nullable_rules(rules: dict[str, Alternatives]) -> set[str]:
    """Rules that match the empty text.

    Looks at every reference once: a grammar can hold tens of thousands.
    """
    ready: list[str] = []
    # Per rule the alternatives that wait for it: whose they are, and all they wait for.
    waiting: dict[str, list[tuple[str, set[str]]]] = {name: [] for name in rules}
    for name, alternatives in rules.items():
        for items in alternatives:
            needed = {item.rule for item in items if not _may_be_empty(item, set())}
            others = {rule for rule in needed if rule is not None}
            if not needed:
                ready.append(name)
            elif None not in needed:
                for rule in others:
                    waiting[rule].append((name, others))
    empty: set[str] = set()
    while ready:
        name = ready.pop()
        if name in empty:
            continue
        empty.add(name)
        for user, others in waiting[name]:
            others.discard(name)
            if not others:
                ready.append(user)
    return empty


def _may_be_empty(item: Item, empty: set[str]) -> bool:
    if item.min_times == 0:
        return True
    return item.terminals == 0 if item.rule is None else item.rule in empty


def _shown(rule: str | None) -> str:
    return "a group" if rule is None or " " in rule else rule
