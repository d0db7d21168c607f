"""Chunks of random bytes for the store, and contexts' ids."""

import hashlib
import random

from pliant.contexts.chunks import StoredChunk, StoredSections

CONTEXTS = [hashlib.md5(name).hexdigest() for name in (b"a", b"b", b"c")]


def make_key(number: int) -> bytes:
    return hashlib.sha256(b"key %d" % number).digest()


def make_chunk(
    seed: int, bits: int = 4, sections: tuple[int, ...] = (100, 1, 300, 50), level: float = 1.0
) -> StoredChunk:
    payload = random.Random(seed).randbytes(sum(sections))
    return StoredChunk(payload, sections, bits, level, header=b"codec %d" % seed)


def whole(stored: StoredSections) -> bytes:
    return b"".join(stored.data)
