"""What of a prompt compression leaves alone."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pliant.errors import RequestError
from pliant.tlm.json_structure import json_structure
from pliant.tlm.question import question_ranges

Range = tuple[int, int]

# CommonMark: a fence of three or more ends at one as long, or with the text.
_FENCED = re.compile(r"^ {0,3}(`{3,}+|~{3,}+)[^\n]*+\n(?s:.*?)(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", re.M)
_BACKTICKS = re.compile(r"`+|\n")
# Ends before CJK text, which follows an address without a space.
_ADDRESS = r"[^\s\"<>\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]+"
_URL = re.compile(
    rf"(?<![a-z0-9_+.-])(?:[a-z][a-z0-9+.-]*+://|www\.|mailto:){_ADDRESS}"
    r"|(?<![a-z0-9_+.-])[a-z0-9_+.-]++@[a-z0-9-]+\.[a-z0-9.-]+",
    re.I | re.A,
)
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class Protect:
    """Which parts stay as they are, whatever the ratio; chat markup always does.

    `system`: messages of the roles system and developer. `question`: the last question, see
    `pliant.tlm.question`. `code`: fenced and inline code. `numbers`: words with a digit. `names`:
    see `pliant.tlm.names`. `urls`: web and mail addresses. `json`: all of a JSON document but the
    words of its string values. `markers`: pairs of an opening and a closing text; they and what
    stands between them.
    """

    system: bool = True
    question: bool = True
    code: bool = True
    numbers: bool = True
    names: bool = True
    urls: bool = True
    json: bool = True
    markers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for pair in self.markers:
            texts = not isinstance(pair, str) and [text for text in pair if isinstance(text, str)]
            if not texts or len(pair) != 2 or not all(texts) or len(texts) != 2:
                raise RequestError(f"a marker is a pair of texts, (opening, closing), not {pair!r}")


EVERYTHING = Protect()
# Without what is content and no structure: where nearly any ratio must be reached.
STRUCTURE = Protect(numbers=False, names=False, urls=False)


def whole_ranges(
    text: str, protect: Protect, markup: Sequence[str], *, is_message: bool, asks: bool
) -> list[Range]:
    """Ranges of `text` that stay character by character, in order and without overlap.

    `markup` are the names of control tokens; `asks`: the last question is in this text, which is
    a message's if `is_message`.
    """
    found = list(_occurrences(text, markup))
    found += _between(text, protect.markers)
    if protect.code:
        found += (match.span() for match in _FENCED.finditer(text))
        found += _inline_code(text)
    if protect.urls:
        found += (match.span() for match in _URL.finditer(text))
    if protect.json:
        found += json_structure(text)
    if protect.question and asks:
        found += question_ranges(text, is_message=is_message)
    return _merged(found)


def has_number(word: str) -> bool:
    """Whether there is a digit in `word`, of any script."""
    return _DIGIT.search(word) is not None


def _occurrences(text: str, names: Sequence[str]) -> Iterator[Range]:
    present = [re.escape(name) for name in names if name and name in text]
    if present:
        longest_first = sorted(present, key=len, reverse=True)
        yield from (match.span() for match in re.finditer("|".join(longest_first), text))


def _inline_code(text: str) -> Iterator[Range]:
    """From each run of backticks to the next one as long on the same line."""
    runs = [*_BACKTICKS.finditer(text)]
    closing: dict[int, re.Match[str]] = {}
    nearest: dict[str, re.Match[str]] = {}
    for run in reversed(runs):
        if run[0] == "\n":
            nearest = {}
            continue
        if run[0] in nearest:
            closing[run.start()] = nearest[run[0]]
        nearest[run[0]] = run
    position = 0
    for run in runs:
        if run.start() >= position and run.start() in closing:
            position = closing[run.start()].end()
            yield run.start(), position


def _between(text: str, markers: Iterable[tuple[str, str]]) -> Iterator[Range]:
    """From each opening marker to the closing one, or to the end of the text without one."""
    for opening, closing in markers:
        start = text.find(opening)
        while start >= 0:
            end = text.find(closing, start + len(opening))
            end = len(text) if end < 0 else end + len(closing)
            yield start, end
            start = text.find(opening, end)


def _merged(ranges: Iterable[Range]) -> list[Range]:
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if start == end:
            continue
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
