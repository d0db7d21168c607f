"""Compressed KV chunks on the disk: a cache that may lose anything and never gives a wrong byte.

Each context appends to a pack of its own. An index says where each chunk is and which contexts
refer to it; it is made again from the packs when it is missing or damaged. Writing never raises
for what the disk does: a chunk that could not be kept is counted and warned of, and recomputed
when it is needed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pliant.contexts.chunks import ChunkInfo, StoredChunk, StoredSections
from pliant.contexts.identity import ChunkKey
from pliant.contexts.journal import ContextId
from pliant.contexts.storage import Device, Disk
from pliant.errors import ChunkCorruptError, ChunkMissingError

DEFAULT_QUOTA_BYTES = 4 << 30

# What to read of a chunk: all sections, or those of these indices.
Wanted = tuple[ChunkKey, Sequence[int] | None]


@dataclass(frozen=True)
class StoreStats:
    """What lies on the disk, and what happened since the store was opened."""

    num_contexts: int
    num_chunks: int
    num_references: int
    disk_bytes: int
    dead_bytes: int
    quota_bytes: int
    puts: int
    put_bytes: int
    failed_puts: int
    reads: int
    read_bytes: int
    missing: int
    corrupt: int
    evicted_contexts: int


@dataclass(frozen=True)
class StoreReport:
    """Result of reading everything; `problems` are sentences, none if all is well."""

    num_packs: int
    num_chunks: int
    num_bytes: int
    problems: tuple[str, ...]


class Store:
    """The chunks of all contexts in one folder; methods may be called from several threads.

    One process owns a folder at a time (see `FolderLock`).
    """

    def __init__(
        self,
        folder: Path,
        *,
        quota_bytes: int = DEFAULT_QUOTA_BYTES,
        device: Device | None = None,
    ) -> None:
        """Open or begin the store in `folder`; `device` is how packs are read.

        Torn ends of packs, left by a crash, are cut off. Never raises for what it finds: what
        cannot be used is forgotten, with a warning; where nothing can be written, put stores
        nothing.
        """
        self._device = device or Disk()
        raise NotImplementedError

    def put(self, context_id: ContextId, key: ChunkKey, chunk: StoredChunk) -> bool:
        """Keep `chunk` for a context; whether it is kept now.

        Survives the end of the process when it returns True; a power failure only after `sync`.
        A chunk that is there with as many bits is referred to, not written again. Over the quota,
        or when the disk is full, the KV of the contexts not used for longest goes first.
        """
        raise NotImplementedError

    def share(self, context_id: ContextId, keys: Sequence[ChunkKey]) -> int:
        """Let a context refer to those of `keys` that are stored, as after a fork; how many."""
        raise NotImplementedError

    def has(self, key: ChunkKey) -> bool:
        raise NotImplementedError

    def info(self, key: ChunkKey) -> ChunkInfo | None:
        """Looked up in the index: the chunk itself is not read. None if it is not stored."""
        raise NotImplementedError

    def read(self, key: ChunkKey, sections: Sequence[int] | None = None) -> StoredSections:
        """All sections of a chunk, or those of the given indices, each checked.

        Raises ChunkMissingError, or ChunkCorruptError, after which the chunk is forgotten;
        IndexError for a section that it never had.
        """
        raise NotImplementedError

    def read_many(
        self, wanted: Sequence[Wanted]
    ) -> list[StoredSections | ChunkMissingError | ChunkCorruptError]:
        """As `read` for each, in order, errors returned instead of raised.

        What lies side by side in a pack is read at once.
        """
        raise NotImplementedError

    def release(self, context_id: ContextId, keys: Sequence[ChunkKey]) -> None:
        """End a context's references to `keys`; chunks that nobody refers to are dead space."""
        raise NotImplementedError

    def touch(self, context_id: ContextId) -> None:
        """Count a use of the context's KV: evicted later."""
        raise NotImplementedError

    def drop_context(self, context_id: ContextId) -> None:
        """Delete a context's KV; chunks that others refer to move to one of their packs."""
        raise NotImplementedError

    def retain(self, context_ids: Collection[ContextId]) -> None:
        """Drop every context that is not one of these: what a crash left of deleted ones."""
        raise NotImplementedError

    def make_room(self, nbytes: int) -> bool:
        """Free so much of the disk by compaction and by dropping old KV; whether that worked."""
        raise NotImplementedError

    def sync(self, context_id: ContextId) -> None:
        """Make what was put for a context survive a power failure."""
        raise NotImplementedError

    def verify(self) -> StoreReport:
        """Read every chunk and compare it with its checksums. Changes nothing."""
        raise NotImplementedError

    def stat(self) -> StoreStats:
        raise NotImplementedError

    def close(self) -> None:
        """Idempotent. Nothing is lost without it."""

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()
