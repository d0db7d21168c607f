"""Reads everything that is stored, and says what is wrong with it."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from pliant.contexts.journal import ContextId
from pliant.contexts.packs import OpenFile
from pliant.contexts.shelf import Shelf
from pliant.errors import ChunkCorruptError


@dataclass(frozen=True)
class StoreReport:
    """Result of reading all stored chunks; `problems` are sentences, none if all is well."""

    num_packs: int
    num_chunks: int
    num_bytes: int
    problems: tuple[str, ...]


def verify_shelf(shelf: Shelf) -> StoreReport:
    """Compare every pack with the index, and every chunk with its checksums."""
    try:
        lengths = shelf.index.lengths()
        counts = shelf.index.counts()
        problems = [
            problem
            for context_id, length in sorted(lengths.items())
            for problem in _verify_pack(shelf, context_id, length)
        ]
    except sqlite3.Error as error:
        return StoreReport(0, 0, 0, (f"the index of stored KV cannot be read: {error}",))
    return StoreReport(len(lengths), counts.num_chunks, counts.live_bytes, tuple(problems))


def _verify_pack(shelf: Shelf, context_id: ContextId, length: int) -> Iterator[str]:
    path = shelf.packs.path(context_id)
    try:
        size = path.stat().st_size
        file = OpenFile(path)
    except OSError as error:
        yield f"{path} cannot be read: {error}"
        return
    if size != length:
        yield f"{path} has {size} bytes and should have {length}"
    for key in shelf.index.keys_in(context_id):
        try:
            place = shelf.index.find(key)
            if place is not None:
                shelf.packs.read_record(file, place.start, place.head)
        except (OSError, ChunkCorruptError) as error:
            yield f"{path}: {error}"
