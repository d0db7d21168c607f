"""Where in a text the tokens of the LLM lie."""

import re

import numpy as np
from numpy.typing import NDArray

from pliant.engine.tokenizer import Tokenizer

_SURROGATE = re.compile("[\ud800-\udfff]")

Positions = NDArray[np.int64]


def readable(text: str) -> str:
    """`text` with U+FFFD for surrogates, which have no UTF-8 and so no tokens; same length."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def token_starts(tokenizer: Tokenizer, text: str) -> Positions:
    """The character that each token of `text`, without bos, begins in; int64 [tokens]."""
    edges = _edges(tokenizer, text)
    return np.searchsorted(_byte_ends(text), edges[:-1], side="right")


def token_ranges(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """Characters `start` to `end` of each token of `text`, without bos.

    A character of several tokens belongs to each of them. Where a tokenizer changes the text, so
    that its tokens' bytes are not the text's, the ranges are in proportion.
    """
    edges, byte_ends = _edges(tokenizer, text), _byte_ends(text)
    starts = np.searchsorted(byte_ends, edges[:-1], side="right").clip(0, len(text))
    ends = (np.searchsorted(byte_ends, edges[1:], side="left") + 1).clip(starts, len(text))
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _edges(tokenizer: Tokenizer, text: str) -> Positions:
    """The bytes of `text` where its tokens begin and the last one ends; int64 [tokens + 1]."""
    pieces = [tokenizer.piece(token) for token in tokenizer.encode(text, add_bos=False)]
    edges = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([len(piece) for piece in pieces], out=edges[1:])
    num_bytes = len(text.encode())
    excess = int(edges[-1]) - num_bytes
    if excess == 1 and pieces[0].startswith(b" "):
        # SentencePiece puts a space in front.
        return np.maximum(edges - 1, 0)
    return edges * num_bytes // max(1, int(edges[-1])) if excess else edges


def _byte_ends(text: str) -> Positions:
    """The bytes of UTF-8 up to the end of each character of `text`; int64 [characters]."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    sizes = 1 + (codes > 0x7F) + (codes > 0x7FF) + (codes > 0xFFFF)
    return np.cumsum(sizes, dtype=np.int64)
