"""Which words are names, as far as writing shows it.

A name is a word with a capital inside (YouTube, NASA) or after an @ or #; a capitalised word that
does not begin a sentence, a line or a quotation; and one that does if a capitalised word follows,
or if it is a name elsewhere in the text. Where most words are capitals, they say nothing. Scripts
without capitals show no names.
"""

import re
from collections.abc import Sequence

_SENTENCE_ENDS = tuple(".!?\u2026\u061f")
_QUOTES = ('"', "'", "\u201c", "\u2018", "\u00ab")
_CORE = re.compile(r"\w(?:.*\w)?", re.S)
_PRONOUN = re.compile(r"I(['\u2019]\w+)?$")
_HANDLE = re.compile(r"\W*[@#][^\W\d]")


def are_names(words: Sequence[str], gaps: Sequence[str]) -> list[bool]:
    """For each of `words`, after the space `gaps[i]`, whether it is a name."""
    cores = [_core(word) for word in words]
    shouts = 2 * sum(map(_is_shouted, cores)) > sum(map(_has_case, cores))
    capitals = [_is_capitalised(core) and not (shouts and core.isupper()) for core in cores]
    starts = _starts(words, gaps)
    found = [
        bool(_HANDLE.match(word))
        or (not shouts and any(c.isupper() for c in core[1:]))
        or (capital and not start)
        for word, core, capital, start in zip(words, cores, capitals, starts, strict=True)
    ]
    known = {core for core, is_name in zip(cores, found, strict=True) if is_name}
    continued = [capital and not start for capital, start in zip(capitals, starts, strict=True)]
    return [
        is_name or (capital and (core in known or is_continued))
        for is_name, core, capital, is_continued in zip(
            found, cores, capitals, [*continued[1:], False], strict=False
        )
    ]


def _starts(words: Sequence[str], gaps: Sequence[str]) -> list[bool]:
    """Whether each word begins a sentence, a line or a quotation."""
    starts = []
    begins = True
    for word, gap in zip(words, gaps, strict=True):
        begins = begins or "\n" in gap
        starts.append(begins or word.startswith(_QUOTES))
        # What has no letter or digit, a bullet say, leaves the beginning to the next word.
        begins = word.endswith(_SENTENCE_ENDS) or (begins and not any(map(str.isalnum, word)))
    return starts


def _core(word: str) -> str:
    """`word` without the punctuation around it and a possessive s."""
    found = _CORE.search(word)
    return found[0].removesuffix("'s").removesuffix("\u2019s") if found else ""


def _is_capitalised(core: str) -> bool:
    return core[:1].isupper() and not _PRONOUN.match(core)


def _is_shouted(core: str) -> bool:
    return len(core) > 1 and core.isupper()


def _has_case(core: str) -> bool:
    return core.lower() != core.upper()
