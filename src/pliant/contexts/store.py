"""Compressed KV chunks on the disk: a cache that may lose anything and never gives a wrong byte.

Each context appends to a pack of its own. An index says where each chunk is and which contexts
refer to it; it is made again from the packs when it is missing or damaged. Nothing that the disk
does is raised, except that a chunk is missing or damaged when it is read: what could not be kept
is counted, warned of once, and recomputed when it is needed.
"""

import errno
import logging
import sqlite3
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from pliant.contexts.audit import StoreReport, pack_problems
from pliant.contexts.chunks import ChunkInfo, StoredChunk, StoredSections
from pliant.contexts.identity import ChunkKey
from pliant.contexts.index import Counts, Place
from pliant.contexts.journal import ContextId
from pliant.contexts.packs import OpenFile
from pliant.contexts.reading import Located, Outcome, Wanted, read_located
from pliant.contexts.records import Head, chunk_head
from pliant.contexts.shelf import open_shelf, remove_index
from pliant.contexts.stats import Counters, StoreStats
from pliant.contexts.storage import Device, Disk
from pliant.errors import ChunkCorruptError, ChunkMissingError

logger = logging.getLogger(__name__)

KV_FOLDER = "kv"
DEFAULT_QUOTA_BYTES = 4 << 30

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_T = TypeVar("_T")


class Store:
    """The chunks of all contexts in one folder; methods may be called from several threads.

    One process at a time (see `FolderLock`). After `close` it stores nothing and has nothing.
    """

    def __init__(
        self, folder: Path, *, quota_bytes: int = DEFAULT_QUOTA_BYTES, device: Device | None = None
    ) -> None:
        """Open or begin the store in the folder `kv` of `folder`; `device` is how chunks are read.

        Torn ends of packs, left by a crash, are cut off. Never raises for what it finds: what
        cannot be used is forgotten, with a warning; where nothing can be written, put stores
        nothing.
        """
        self._folder = folder / KV_FOLDER
        self._device = device or Disk()
        self._quota_bytes = quota_bytes
        self._counters = Counters()
        self._warned: set[tuple[str, int | None]] = set()
        self._lock = threading.RLock()
        self._shelf = open_shelf(self._folder, self._counters)
        self._attempt("the quota was not kept", lambda: self._free(self._excess(0), None))

    def put(self, context_id: ContextId, key: ChunkKey, chunk: StoredChunk) -> bool:
        """Keep `chunk` for a context; whether it is kept now.

        Survives the end of the process when it returns True; a power failure only after `sync`.
        A chunk that is there with as many bits is referred to, not written again. Over the quota,
        or when the disk is full, the KV of the contexts not used for longest goes first.
        """
        head = chunk_head(key, chunk)

        def work() -> bool:
            stored = self._find(key)
            if stored is not None and stored.head.info.bits >= chunk.bits:
                self._shelf.refer(context_id, key)
            else:
                self._add(context_id, head, chunk)
                self._counters.puts += 1
                self._counters.put_bytes += head.nbytes
            return True

        if self._attempt("KV was not stored", work):
            return True
        with self._lock:
            self._counters.failed_puts += 1
        return False

    def share(self, context_id: ContextId, keys: Sequence[ChunkKey]) -> int:
        """Let a context refer to those of `keys` that are stored, as after a fork; how many. As
        durable as `put`."""

        def work() -> int:
            stored = [key for key in keys if self._shelf.index.has(key)]
            for key in stored:
                self._shelf.refer(context_id, key)
            return len(stored)

        return self._attempt("KV was not shared", work) or 0

    def has(self, key: ChunkKey) -> bool:
        return bool(self._attempt("KV was not looked up", lambda: self._shelf.index.has(key)))

    def info(self, key: ChunkKey) -> ChunkInfo | None:
        """Looked up in the index: the chunk itself is not read. None if it is not stored."""
        place = self._attempt("KV was not looked up", lambda: self._find(key))
        return place.head.info if place else None

    def locate(self, key: ChunkKey) -> Located | None:
        """Where a chunk is, to read it without looking it up again. None if it is not stored."""
        with self._lock:
            found = self._look_up(key)
        return found if isinstance(found, Located) else None

    def read(self, key: ChunkKey, sections: Sequence[int] | None = None) -> StoredSections:
        """All sections of a chunk, or those of the given indices, each checked.

        Raises ChunkMissingError, or ChunkCorruptError, after which the chunk is forgotten;
        IndexError for a section that the chunk never had.
        """
        [outcome] = self.read_many([(key, sections)])
        if isinstance(outcome, StoredSections):
            return outcome
        raise outcome

    def read_many(self, wanted: Sequence[Wanted]) -> list[Outcome]:
        """As `read` for each, in order, errors returned instead of raised. What lies side by side
        in a pack is read at once."""
        with self._lock:
            found = [self._locate(chunk, sections) for chunk, sections in wanted]
        located = [item for item in found if isinstance(item, Located)]
        read = iter(read_located(self._device, located))
        results = [next(read) if isinstance(item, Located) else item for item in found]
        with self._lock:
            for (chunk, _), item, result in zip(wanted, found, results, strict=True):
                key = chunk.head.info.key if isinstance(chunk, Located) else chunk
                self._count_read(key, item, result)
        return results

    def release(self, context_id: ContextId, keys: Sequence[ChunkKey]) -> None:
        """End a context's references to `keys`, when a history was rewritten; chunks that nobody
        refers to are dead space. May be undone by a crash that loses the index."""
        self._attempt("KV was not released", lambda: self._shelf.release(context_id, keys))

    def touch(self, context_id: ContextId) -> None:
        """Count a use of the context's KV: it is evicted later."""
        self._attempt("a use was not noted", lambda: self._shelf.touch(context_id))

    def drop_context(self, context_id: ContextId) -> list[ChunkKey]:
        """Delete a context's KV; chunks that others refer to move to one of their packs.

        Returns the keys of what is nowhere now.
        """
        return self._attempt("KV was not deleted", lambda: self._shelf.drop(context_id)) or []

    def retain(self, context_ids: Collection[ContextId]) -> None:
        """Drop every context that is not one of these: what a crash left of deleted ones."""
        stored = self._attempt("KV was not looked up", lambda: self._shelf.index.lengths())
        for context_id in (stored or {}).keys() - set(context_ids):
            self.drop_context(context_id)

    def make_room(self, nbytes: int) -> bool:
        """Free so much of the disk by dropping KV, oldest first; whether any was freed."""

        def work() -> bool:
            before = self._shelf.pack_bytes
            self._free(nbytes, None)
            return self._shelf.pack_bytes < before

        return bool(self._attempt("no room was made", work))

    def sync(self, context_id: ContextId) -> bool:
        """Make what was put for a context survive a power failure; whether that worked."""

        def work() -> bool:
            if not self._shelf.index.length(context_id):
                return False  # It was deleted meanwhile.
            self._shelf.packs.sync(context_id)
            return True

        return bool(self._attempt("KV was not synced", work))

    def verify(self) -> StoreReport:
        """Read every chunk and compare it with its checksums; others wait for one context at a
        time. Changes nothing."""
        try:
            with self._lock:
                counts, contexts = self._shelf.index.counts(), self._shelf.index.lengths()
            problems: list[str] = []
            for context_id in sorted(contexts):
                with self._lock:
                    problems += pack_problems(self._shelf, context_id)
        except sqlite3.Error as error:
            return StoreReport(0, 0, 0, (f"the index of stored KV cannot be read: {error}",))
        return StoreReport(
            counts.num_contexts, counts.num_chunks, counts.live_bytes, tuple(problems)
        )

    def stat(self) -> StoreStats:
        counts = self._attempt("KV was not counted", lambda: self._shelf.index.counts())
        counts = counts or Counts(0, 0, 0, 0, 0)
        with self._lock:
            return StoreStats(
                num_contexts=counts.num_contexts,
                num_chunks=counts.num_chunks,
                num_references=counts.num_references,
                disk_bytes=counts.pack_bytes,
                dead_bytes=counts.pack_bytes - counts.live_bytes,
                quota_bytes=self._quota_bytes,
                **asdict(self._counters),
            )

    def close(self) -> None:
        """Idempotent. Nothing is lost without it."""
        with self._lock:
            self._shelf.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()

    def _attempt(self, what: str, work: Callable[[], _T]) -> _T | None:
        """Run `work` under the lock; None, and a warning, if the disk or the index refuses."""
        with self._lock:
            try:
                return work()
            except (OSError, sqlite3.Error) as error:
                self._warn(what, error)
                if _code(error) in _DAMAGED:
                    self._rebuild()
                return None

    def _rebuild(self) -> None:
        """Make the index again from the packs."""
        self._shelf.close()
        with suppress(OSError):
            remove_index(self._folder)
        self._shelf = open_shelf(self._folder, self._counters)

    def _warn(self, what: str, error: Exception) -> None:
        """The same warning is given once."""
        kind = (what, _code(error))
        level = logging.DEBUG if kind in self._warned else logging.WARNING
        self._warned.add(kind)
        logger.log(level, "%s: %s", what, error)

    def _find(self, key: ChunkKey) -> Place | None:
        try:
            return self._shelf.index.find(key)
        except ChunkCorruptError:
            return None

    def _add(self, context_id: ContextId, head: Head, chunk: StoredChunk) -> None:
        """Append a chunk, making room for it first, or when the disk turns out to be full."""
        excess = self._excess(head.nbytes)
        if head.nbytes > self._quota_bytes or not self._free(excess, context_id):
            raise OSError(errno.EDQUOT, f"the quota of {self._quota_bytes} bytes is used up")
        try:
            self._shelf.add(context_id, head, chunk.payload)
        except (OSError, sqlite3.Error) as error:
            if not _is_full(error) or not self._free(head.nbytes, context_id):
                raise
            self._shelf.add(context_id, head, chunk.payload)

    def _excess(self, nbytes: int) -> int:
        """By how much so many further bytes would be over the quota; negative for room left."""
        return self._shelf.pack_bytes + nbytes - self._quota_bytes

    def _free(self, nbytes: int, but: ContextId | None) -> bool:
        """Drop the KV of contexts, oldest first, until `nbytes` are free; whether they are."""
        goal = self._shelf.pack_bytes - nbytes
        while self._shelf.pack_bytes > goal:
            oldest = self._shelf.index.oldest(but)
            if oldest is None:
                break
            self._shelf.drop(oldest)
            self._counters.evicted_contexts += 1
        missing = self._shelf.pack_bytes - goal
        if missing > 0 and but is not None and self._shelf.dead_bytes(but) > missing:
            self._shelf.compact(but)
        return self._shelf.pack_bytes <= goal

    def _locate(
        self, chunk: ChunkKey | Located, sections: Sequence[int] | None
    ) -> Located | ChunkMissingError | ChunkCorruptError:
        found = chunk if isinstance(chunk, Located) else self._look_up(chunk)
        if sections is None or not isinstance(found, Located):
            return found
        return found.part(sections)

    def _look_up(self, key: ChunkKey) -> Located | ChunkMissingError | ChunkCorruptError:
        """All of a chunk."""
        try:
            place = self._shelf.index.find(key)
            if place is None:
                return ChunkMissingError(f"chunk {key.hex()} is not stored")
            file = self._open_pack(place.context_id)
        except ChunkCorruptError as error:
            return error
        except (OSError, sqlite3.Error) as error:
            self._warn("KV was not read", error)
            return ChunkMissingError(f"chunk {key.hex()} cannot be read: {error}")
        indices = tuple(range(len(place.head.info.sections)))
        return Located(file, place.start, place.head, indices)

    def _open_pack(self, context_id: ContextId) -> OpenFile:
        try:
            return self._shelf.packs.open(context_id)
        except FileNotFoundError:
            self._shelf.take_stock(context_id)
            raise

    def _count_read(self, key: ChunkKey, item: Located | Exception, result: Outcome) -> None:
        """A damaged chunk is forgotten, unless it was stored again meanwhile."""
        counters = self._counters
        if isinstance(result, StoredSections):
            counters.reads += 1
            counters.read_bytes += result.nbytes
        elif isinstance(result, ChunkMissingError):
            counters.missing += 1
        else:
            counters.corrupt += 1
            logger.warning("stored KV is damaged and will be computed again: %s", result)
            self._attempt("damaged KV was not forgotten", lambda: self._forget(key, item))

    def _forget(self, key: ChunkKey, item: Located | Exception) -> None:
        place = self._find(key)
        if (
            place is None
            or not isinstance(item, Located)
            or (place.start, place.head.raw) == (item.start, item.head.raw)
        ):
            self._shelf.index.forget(key)


def _code(error: Exception) -> int | None:
    """SQLite's or the system's number of an error."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF
    return error.errno if isinstance(error, OSError) else None


def _is_full(error: OSError | sqlite3.Error) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    return _code(error) == sqlite3.SQLITE_FULL
