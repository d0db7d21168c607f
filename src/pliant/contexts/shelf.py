"""Packs and their index, kept in step.

A pack is written before the index, so a crash leaves an index that is behind, never one that
points at nothing that was written; `open_shelf` makes up for that. Methods raise OSError and
sqlite3.Error; chunks they could not keep are then forgotten or still where they were.
"""

import errno
import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from pliant.contexts.database import make_private_folder
from pliant.contexts.identity import ChunkKey
from pliant.contexts.index import INDEX_FILE, Index, Place
from pliant.contexts.journal import ContextId
from pliant.contexts.packs import START, Buffer, Packs
from pliant.contexts.records import Head, Kind, reference_head
from pliant.contexts.stats import Counters
from pliant.errors import ChunkCorruptError, JournalError

logger = logging.getLogger(__name__)

# Packs with less dead space than this are not worth rewriting.
_MIN_DEAD_BYTES = 1 << 20


def open_shelf(folder: Path, counters: Counters) -> "Shelf":
    """What is in `folder`, whatever state it is in; counts repairs. Raises nothing."""
    try:
        return _open(folder, counters)
    except sqlite3.Error as error:
        logger.warning("making the index of stored KV again: %s", error)
    with suppress(OSError):
        remove_index(folder)
    try:
        return _open(folder, counters)
    except sqlite3.Error as error:
        logger.warning("KV cannot be stored in %s: %s", folder, error)
        return Shelf(Index.in_memory(), Packs(folder), counters)


def _open(folder: Path, counters: Counters) -> "Shelf":
    shelf = Shelf(_open_index(folder), Packs(folder), counters)
    try:
        shelf.reconcile()
    except OSError as error:
        logger.warning("stored KV in %s cannot be read: %s", folder, error)
    except sqlite3.Error:
        shelf.close()
        raise
    return shelf


def remove_index(folder: Path) -> None:
    """It will be made again from the packs. Raises OSError."""
    for path in folder.glob(f"{INDEX_FILE}*"):
        path.unlink()


def _open_index(folder: Path) -> Index:
    """The index on the disk, a new one if it is unusable, one in memory if nothing is writable."""
    try:
        make_private_folder(folder)
        try:
            return Index.open(folder)
        except JournalError as error:
            logger.warning("making the index of stored KV again: %s", error)
            remove_index(folder)
            return Index.open(folder)
    except (OSError, sqlite3.Error, JournalError) as error:
        logger.warning("KV cannot be stored in %s: %s", folder, error)
    with suppress(OSError, sqlite3.Error, JournalError):
        return Index.in_memory(folder)
    return Index.in_memory()


class Shelf:
    """Callers hold a lock: one thread at a time. `pack_bytes` is what all packs take."""

    def __init__(self, index: Index, packs: Packs, counters: Counters) -> None:
        self.index = index
        self.packs = packs
        self._counters = counters
        self.pack_bytes = 0

    def reconcile(self) -> None:
        """Bring the index to what the packs hold, by their sizes, and cut off torn ends."""
        sizes = self.packs.sizes()
        known = self.index.lengths()
        if sizes and not known:
            self._note_repair(f"the index of stored KV in {self.packs.folder} is made again")
        with self._change():
            for context_id in known.keys() - sizes.keys():
                self._note_repair(f"{self.packs.path(context_id)} is gone")
                self.index.remove_pack(context_id)
            for context_id, size in sizes.items():
                if size != known.get(context_id):
                    self._rescan_or_forget(context_id)
        self.pack_bytes = self.index.pack_bytes()

    def rescan(self, context_id: ContextId) -> None:
        """Index the records of a pack that are not indexed yet, or all of them if it shrank."""
        path = self.packs.path(context_id)
        status = path.stat()
        with self._change():
            known = self.index.length(context_id)
            if status.st_size < known:
                self._note_repair(f"{path} is shorter than it was")
                self.index.remove_pack(context_id)
                known = 0
            end = known
            self.index.set_pack(context_id, end, status.st_mtime)
            for start, head in self.packs.scan(context_id, known, status.st_size):
                end = start + head.nbytes
                self._index_record(context_id, start, head)
            self.index.set_pack(context_id, end, status.st_mtime)
            if end == 0:
                self.index.remove_pack(context_id)
            if end < status.st_size or end == 0:
                self._note_repair(f"{path}: cutting off {status.st_size - end} torn bytes")
                with suppress(OSError):
                    self.packs.truncate(context_id, end)

    def add(self, context_id: ContextId, head: Head, payload: Buffer) -> None:
        """Append a chunk to a context's pack; it takes the place of one with fewer bits."""
        with self._change():
            start = self._append(context_id, [head.raw, payload])
            self.index.place(Place(context_id, start, head))
            self.index.refer(context_id, head.info.key)

    def refer(self, context_id: ContextId, key: ChunkKey) -> None:
        """Let a context refer to a chunk that is stored."""
        if self.index.refers(context_id, key):
            return
        with self._change():
            self._append(context_id, [reference_head(key).raw])
            self.index.refer(context_id, key)

    def release(self, context_id: ContextId, keys: Sequence[ChunkKey]) -> None:
        """End references; packs that are mostly dead then are rewritten."""
        owners = set()
        with self._change():
            for key in keys:
                with suppress(ChunkCorruptError):
                    place = self.index.find(key)
                    owners.update([place.context_id] if place else [])
                self.index.unrefer(context_id, key)
        for owner in owners:
            live = self.index.live_bytes(owner)
            if self.dead_bytes(owner) > max(_MIN_DEAD_BYTES, live):
                self.compact(owner)

    def touch(self, context_id: ContextId) -> None:
        """Count a use of what a context refers to."""
        self.index.touch(context_id, time.time())

    def dead_bytes(self, context_id: ContextId) -> int:
        """What of a pack is not a chunk in use."""
        return self.index.length(context_id) - self.index.live_bytes(context_id)

    def drop(self, context_id: ContextId) -> list[ChunkKey]:
        """Delete a pack; chunks that other contexts refer to move to the pack of one of them.
        What the context referred to and nobody has now is returned."""
        length, used = self.index.length(context_id), self.index.references(context_id)
        with self._change():
            for key in self.index.keys_in(context_id):
                heir = self.index.heir(key, context_id)
                if heir is not None:
                    self._move(key, heir)
            self.packs.remove(context_id)
            self.index.remove_pack(context_id)
        self.pack_bytes -= length
        return [key for key in used if not self.index.has(key)]

    def compact(self, context_id: ContextId) -> None:
        """Rewrite a pack without its dead records; damaged ones are found and left out."""
        length = self.index.length(context_id)
        if length == 0:
            return
        keys = self.index.keys_in(context_id)
        others = sorted(set(self.index.references(context_id)) - set(keys))
        references = [reference_head(key).raw for key in others]
        start = START + sum(map(len, references))
        places: list[Place] = []
        with self._change():
            records = self._live_records(context_id, start, keys, places)
            end = self.packs.rewrite(context_id, chain(references, records))
            for place in places:
                self.index.place(place)
            self.index.set_length(context_id, end)
        self.pack_bytes += end - length

    def close(self) -> None:
        """Idempotent."""
        self.packs.close()
        self.index.close()

    @contextmanager
    def _change(self) -> Iterator[None]:
        try:
            with self.index.transaction():
                yield
        except BaseException:
            with suppress(sqlite3.Error):
                self.pack_bytes = self.index.pack_bytes()
            raise

    def _append(self, context_id: ContextId, parts: Sequence[Buffer]) -> int:
        """Write a record at the end of a pack; where it begins."""
        end = self.index.length(context_id)
        try:
            new_end = self.packs.append(context_id, end, parts)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            make_private_folder(self.packs.folder)
            self.take_stock(context_id)
            end = self.index.length(context_id)
            new_end = self.packs.append(context_id, end, parts)
        self.index.set_pack(context_id, new_end, time.time())
        self.pack_bytes += new_end - end
        return end or START

    def take_stock(self, context_id: ContextId) -> None:
        """Index a pack that is not what the index says."""
        length = self.index.length(context_id)
        try:
            self.rescan(context_id)
        except FileNotFoundError:
            self._note_repair(f"{self.packs.path(context_id)} is gone")
            self.index.remove_pack(context_id)
        self.pack_bytes += self.index.length(context_id) - length

    def _rescan_or_forget(self, context_id: ContextId) -> None:
        """A pack that cannot be read does not keep others from being found."""
        try:
            self.rescan(context_id)
        except OSError as error:
            self._note_repair(f"{self.packs.path(context_id)} cannot be read: {error}")
            self.index.remove_pack(context_id)

    def _note_repair(self, what: str) -> None:
        logger.warning("%s", what)
        self._counters.repairs += 1

    def _index_record(self, context_id: ContextId, start: int, head: Head) -> None:
        key = head.info.key
        self.index.refer(context_id, key)
        if head.kind is Kind.REFERENCE:
            return
        try:
            place = self.index.find(key)
        except ChunkCorruptError:
            place = None
        if place is None or place.head.info.bits < head.info.bits:
            self.index.place(Place(context_id, start, head))

    def _move(self, key: ChunkKey, heir: ContextId) -> None:
        """Copy a chunk to the pack of `heir`; it is forgotten if that is not possible."""
        try:
            record, head = self._read(key)
            start = self._append(heir, [record])
        except (OSError, ChunkCorruptError) as error:
            logger.warning("a shared chunk is lost: %s", error)
            self.index.forget(key)
            return
        self.index.place(Place(heir, start, head))

    def _live_records(
        self, context_id: ContextId, start: int, keys: Sequence[ChunkKey], places: list[Place]
    ) -> Iterator[memoryview]:
        """The records of `keys`, one after the other from `start` on; adds where to `places`."""
        for key in keys:
            try:
                record, head = self._read(key)
            except ChunkCorruptError as error:
                logger.warning("left out while compacting: %s", error)
                self.index.forget(key)
                continue
            places.append(Place(context_id, start, head))
            start += head.nbytes
            yield record

    def _read(self, key: ChunkKey) -> tuple[memoryview, Head]:
        place = self.index.find(key)
        if place is None:
            raise ChunkCorruptError(f"chunk {key.hex()} is not in the index")
        file = self.packs.open(place.context_id)
        return self.packs.read_record(file, place.start, place.head), place.head
