"""Reads what is stored, and says what is wrong with it."""

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


def pack_problems(shelf: Shelf, context_id: ContextId) -> Iterator[str]:
    """Compare a pack with the index, and its chunks with their checksums."""
    length = shelf.index.length(context_id)
    if length == 0:
        return
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
