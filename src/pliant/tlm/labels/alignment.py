"""Which words of a text a rewritten, shorter text kept.

After LLMLingua-2 (arXiv 2403.12968, section 3.3): an LLM asked to only drop words still changes
some, or moves them, so each word of the short text is looked for around the place of the word
before it, first as it is, then as a form of the same word.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WINDOW = 150
"""Words looked through on either side, at most (the authors' default)."""

_STEM_CHARS = 4
_STEM_SHARE = 0.6
_WORD = re.compile(r"\S+")
_EDGES = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True)
class Alignment:
    """`spans`: characters of each word of the original; `kept`: whether the short text has it.

    variation_rate  share of the short text's words that the original has nowhere
    alignment_gap   share of the original's words that are in the short text, less the share that
                    was found for one of its words (section 3.3, equations 3 and 4)
    """

    spans: tuple[tuple[int, int], ...]
    kept: tuple[bool, ...]
    variation_rate: float
    alignment_gap: float


def align(original: str, compressed: str, window: int = WINDOW) -> Alignment:
    """Words are what white space parts; case and punctuation at their edges do not count."""
    spans = tuple(found.span() for found in _WORD.finditer(original))
    words = [_plain(original[start:end]) for start, end in spans]
    wanted = [word for word in map(_plain, compressed.split()) if word]
    places = _Places(words)
    place = 0
    for word in wanted:
        found = places.take(word, place, window)
        if found is not None:
            # A match far ahead may be a wrong one: the window does not follow it all the way.
            place = min(found, place + window // 2)
    kept = tuple(places.taken)
    known = set(words)
    num_known = sum(word in known for word in wanted)
    return Alignment(
        spans=spans,
        kept=kept,
        variation_rate=1 - num_known / len(wanted) if wanted else 0.0,
        alignment_gap=(num_known - sum(kept)) / len(words) if words else 0.0,
    )


class _Places:
    """Where each word stands, and which places are taken."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self.taken = [False] * len(words)
        self._same: dict[str, list[int]] = defaultdict(list)
        self._alike: dict[str, list[int]] = defaultdict(list)
        for place, word in enumerate(words):
            if word:
                self._same[word].append(place)
                self._alike[word[:_STEM_CHARS]].append(place)

    def take(self, word: str, near: int, window: int) -> int | None:
        """The free place nearest to `near` with the word, or with another form of it."""
        for places in (self._same.get(word, ()), self._alike.get(word[:_STEM_CHARS], ())):
            for place in _nearest(places, near, window):
                if not self.taken[place] and _is_form(self._words[place], word):
                    self.taken[place] = True
                    return place
        return None


def _nearest(places: Sequence[int], near: int, window: int) -> Iterator[int]:
    """Those less than `window` away, the nearest first; ahead before behind."""
    ahead = bisect_left(places, near)
    behind = ahead - 1
    while True:
        forward = places[ahead] - near if ahead < len(places) else window
        backward = near - places[behind] if behind >= 0 else window
        if min(forward, backward) >= window:
            return
        if forward <= backward:
            yield places[ahead]
            ahead += 1
        else:
            yield places[behind]
            behind -= 1


def _is_form(one: str, other: str) -> bool:
    """Whether both begin alike for most of their length, as inflected forms do."""
    if one == other:
        return True
    common = next(
        (i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y),
        min(len(one), len(other)),
    )
    return common >= _STEM_CHARS and common >= _STEM_SHARE * max(len(one), len(other))


def _plain(word: str) -> str:
    """Without case and edges; a word of punctuation alone stays as it is."""
    folded = word.casefold()
    return _EDGES.sub("", folded) or folded
