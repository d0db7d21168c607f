"""How much each stretch of a text is worth keeping, and what can say so."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class TokenScore(NamedTuple):
    """One token of a scorer: the characters `start` to `end` of the text, and their worth.

    `keep` is a probability (0..1, 1 = keep) where a trained score head gives it. Compression
    compares the scores of one text with each other only, so any finite scale serves.
    """

    start: int
    end: int
    keep: float


class Scorer(Protocol):
    """Scores texts: the score head of a TLM, or anything that ranks the parts of a text."""

    def scores(self, texts: Sequence[str]) -> list[list[TokenScore]]:
        """One list per text, in the order of its characters; characters may be left out."""
        ...
