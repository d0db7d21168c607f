"""A context's tokens as the chunks that are stored of them."""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from pliant.contexts.identity import CHUNK_TOKENS, ChunkKey, KeySpace, chunk_keys


@dataclass(frozen=True)
class ChunkSpan:
    """Tokens `start`..`stop` under their key; `level` is the lowest that computed one of them,
    so the chunk has that level's heads."""

    key: ChunkKey
    start: int
    stop: int
    level: float

    @property
    def is_whole(self) -> bool:
        return self.stop - self.start == CHUNK_TOKENS


def chunk_spans(space: KeySpace, tokens: Sequence[int], levels: Sequence[float]) -> list[ChunkSpan]:
    """All of a context in order; the last span is what is left over, if anything is.

    The leftover is stored, too, under a key of its own: computing half a chunk again would take
    longer than all the rest of a restore. It is replaced when the context has grown.
    """
    keys = chunk_keys(space, tokens, levels)
    whole = len(keys) * CHUNK_TOKENS
    spans = [
        ChunkSpan(key, start, start + CHUNK_TOKENS, min(levels[start : start + CHUNK_TOKENS]))
        for key, start in zip(keys, range(0, whole, CHUNK_TOKENS), strict=True)
    ]
    if whole < len(tokens):
        before = keys[-1] if keys else space.root
        key = _rest_key(space, before, tokens[whole:], levels[whole:])
        spans.append(ChunkSpan(key, whole, len(tokens), min(levels[whole:])))
    return spans


def _rest_key(
    space: KeySpace, before: ChunkKey, tokens: Sequence[int], levels: Sequence[float]
) -> ChunkKey:
    digest = hashlib.sha256(b"rest" + before)
    digest.update(struct.pack(f"<{len(tokens)}I", *tokens))
    for ratio, run in groupby(levels):
        digest.update(struct.pack("<I", len(list(run))) + space.level_digest(ratio))
    return digest.digest()
