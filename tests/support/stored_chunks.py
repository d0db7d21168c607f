"""Chunks of random bytes for the store, contexts' ids, and what of it can be read."""

import hashlib
import random
from pathlib import Path

from pliant.contexts.chunks import StoredChunk, StoredSections
from pliant.contexts.store import Store
from pliant.errors import ChunkCorruptError, ChunkMissingError

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


def readable(store: Store) -> list[int]:
    """Numbers of the chunks that are read, each of which must be right."""
    numbers = []
    for number in range(30):
        try:
            assert whole(store.read(make_key(number))) == make_chunk(number).payload
            numbers.append(number)
        except (ChunkMissingError, ChunkCorruptError):
            pass
    return numbers


def fill_store(folder: Path) -> Path:
    """Chunks 0..3 in the first context's pack and 4..5 in the second's."""
    with Store(folder) as store:
        for number in range(6):
            assert store.put(CONTEXTS[number // 4], make_key(number), make_chunk(number))
    return folder
