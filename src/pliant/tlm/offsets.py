"""Where in a text the tokens of the LLM lie."""

import re

import numpy as np

from pliant.engine.tokenizer import Tokenizer

_SURROGATE = re.compile("[\ud800-\udfff]")


def readable(text: str) -> str:
    """`text` with U+FFFD for surrogates, which have no UTF-8 and so no tokens; same length."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def token_ranges(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """Characters `start` to `end` of each token of `text`, without bos.

    A character of several tokens belongs to each of them. Where a tokenizer changes the text, so
    that its tokens' bytes are not the text's, the ranges are in proportion.
    """
    pieces = [tokenizer.piece(token) for token in tokenizer.encode(text, add_bos=False)]
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    character_ends = np.cumsum(1 + (codes > 0x7F) + (codes > 0x7FF) + (codes > 0xFFFF))
    if not len(ends) or not len(codes):
        return [(0, 0)] * len(pieces)
    excess = int(ends[-1] - character_ends[-1])
    if excess == 1 and pieces[0].startswith(b" "):
        # SentencePiece puts a space in front.
        ends = np.maximum(ends - 1, 0)
    elif excess:
        ends = ends * int(character_ends[-1]) // max(1, int(ends[-1]))
    starts = np.concatenate([[0], ends[:-1]])
    first = np.searchsorted(character_ends, starts, side="right")
    last = np.searchsorted(character_ends, ends, side="left") + 1
    return [
        (min(a, len(codes)), min(max(a, b), len(codes)))
        for a, b in zip(first.tolist(), last.tolist(), strict=True)
    ]
