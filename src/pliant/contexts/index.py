"""Where every stored chunk is and who refers to it: SQLite, made again from the packs if lost.

Methods raise sqlite3.Error as SQLite does. Its log is not synced with every change: after a power
failure it may be behind the packs, which `Store` notices by their sizes.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pliant.contexts.database import open_database
from pliant.contexts.identity import ChunkKey
from pliant.contexts.journal import ContextId
from pliant.contexts.records import Head, decode_head
from pliant.errors import ChunkCorruptError

INDEX_FILE = "index.sqlite"
APPLICATION_ID = 0x706C6931  # "pli1"

MIGRATIONS = (
    """
    CREATE TABLE packs (
        id INTEGER PRIMARY KEY,
        context TEXT NOT NULL UNIQUE,
        length INTEGER NOT NULL,
        used_s REAL NOT NULL
    ) STRICT;
    CREATE INDEX packs_by_use ON packs (used_s);
    CREATE TABLE chunks (
        key BLOB NOT NULL UNIQUE,
        pack INTEGER NOT NULL REFERENCES packs (id),
        start INTEGER NOT NULL,
        nbytes INTEGER NOT NULL,
        head BLOB NOT NULL
    ) STRICT;
    CREATE INDEX chunks_by_pack ON chunks (pack, start, nbytes);
    CREATE TABLE refs (
        pack INTEGER NOT NULL REFERENCES packs (id),
        key BLOB NOT NULL,
        PRIMARY KEY (pack, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX refs_by_key ON refs (key);
    """,
)


@dataclass(frozen=True)
class Place:
    """A chunk's record: in whose pack, where in it, and its head."""

    context_id: ContextId
    start: int
    head: Head


@dataclass(frozen=True)
class Counts:
    num_contexts: int
    num_chunks: int
    num_references: int
    pack_bytes: int
    live_bytes: int


class Index:
    """Callers hold a lock: one thread at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    @staticmethod
    def open(folder: Path) -> "Index":
        """The index in `folder`, or a new one. Raises as `open_database`."""
        path = folder / INDEX_FILE
        return Index(open_database(path, APPLICATION_ID, MIGRATIONS, synchronous="NORMAL"))

    @staticmethod
    def in_memory(folder: Path | None = None) -> "Index":
        """A copy of the index in `folder`, or an empty one, where nothing can be written."""
        memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        if folder is None:
            memory.executescript("\n".join(MIGRATIONS))
            return Index(memory)
        path = folder / INDEX_FILE
        disk = open_database(path, APPLICATION_ID, MIGRATIONS, synchronous="OFF", read_only=True)
        try:
            disk.backup(memory)
        finally:
            disk.close()
        return Index(memory)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing; one inside another is part of the outer one."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def lengths(self) -> dict[ContextId, int]:
        """Bytes of every pack, as far as their records are known."""
        return dict(self._db.execute("SELECT context, length FROM packs"))

    def length(self, context_id: ContextId) -> int:
        """0 for a context without a pack."""
        sql = "SELECT length FROM packs WHERE context = ?"
        row = self._db.execute(sql, (context_id,)).fetchone()
        return int(row[0]) if row else 0

    def set_pack(self, context_id: ContextId, length: int, used_s: float) -> None:
        self._db.execute(
            "INSERT INTO packs (context, length, used_s) VALUES (?1, ?2, ?3)"
            " ON CONFLICT (context) DO UPDATE SET length = ?2, used_s = ?3",
            (context_id, length, used_s),
        )

    def set_length(self, context_id: ContextId, length: int) -> None:
        self._db.execute("UPDATE packs SET length = ? WHERE context = ?", (length, context_id))

    def touch(self, context_id: ContextId, used_s: float) -> None:
        self._db.execute("UPDATE packs SET used_s = ? WHERE context = ?", (used_s, context_id))

    def oldest(self, but: ContextId | None) -> ContextId | None:
        """The context whose KV was not used for longest."""
        sql = "SELECT context FROM packs WHERE context IS NOT ? ORDER BY used_s LIMIT 1"
        row = self._db.execute(sql, (but,)).fetchone()
        return row[0] if row else None

    def find(self, key: ChunkKey) -> Place | None:
        """Raises ChunkCorruptError if what the index says of it is damaged."""
        row = self._db.execute(
            "SELECT context, start, head FROM chunks JOIN packs ON packs.id = pack WHERE key = ?",
            (key,),
        ).fetchone()
        if row is None:
            return None
        place = Place(row[0], row[1], decode_head(row[2]))
        if place.head.info.key != key:
            raise ChunkCorruptError(f"the index has another chunk for {key.hex()}")
        return place

    def has(self, key: ChunkKey) -> bool:
        sql = "SELECT EXISTS (SELECT 1 FROM chunks WHERE key = ?)"
        return bool(self._db.execute(sql, (key,)).fetchone()[0])

    def place(self, place: Place) -> None:
        """A chunk is here now, wherever it was before."""
        self._db.execute(
            "INSERT INTO chunks (key, pack, start, nbytes, head)"
            " VALUES (?1, (SELECT id FROM packs WHERE context = ?2), ?3, ?4, ?5)"
            " ON CONFLICT (key) DO UPDATE SET"
            " pack = excluded.pack, start = ?3, nbytes = ?4, head = ?5",
            (
                place.head.info.key,
                place.context_id,
                place.start,
                place.head.nbytes,
                place.head.raw,
            ),
        )

    def forget(self, key: ChunkKey) -> None:
        """The chunk is nowhere; who refers to it stays known."""
        self._db.execute("DELETE FROM chunks WHERE key = ?", (key,))

    def refers(self, context_id: ContextId, key: ChunkKey) -> bool:
        row = self._db.execute(
            "SELECT EXISTS (SELECT 1 FROM refs JOIN packs ON packs.id = pack"
            " WHERE key = ? AND context = ?)",
            (key, context_id),
        ).fetchone()
        return bool(row[0])

    def refer(self, context_id: ContextId, key: ChunkKey) -> None:
        """Note that a context, which has a pack, uses a chunk."""
        self._db.execute(
            "INSERT OR IGNORE INTO refs (pack, key) SELECT id, ? FROM packs WHERE context = ?",
            (key, context_id),
        )

    def unrefer(self, context_id: ContextId, key: ChunkKey) -> None:
        """End a reference; a chunk without any is forgotten."""
        self._db.execute(
            "DELETE FROM refs WHERE key = ? AND pack = (SELECT id FROM packs WHERE context = ?)",
            (key, context_id),
        )
        self._db.execute(
            "DELETE FROM chunks WHERE key = ?1"
            " AND NOT EXISTS (SELECT 1 FROM refs WHERE refs.key = ?1)",
            (key,),
        )

    def references(self, context_id: ContextId) -> list[ChunkKey]:
        """What a context refers to, stored or not."""
        sql = "SELECT key FROM refs JOIN packs ON packs.id = pack WHERE context = ?"
        return [key for (key,) in self._db.execute(sql, (context_id,))]

    def heir(self, key: ChunkKey, but: ContextId) -> ContextId | None:
        """The context that used the chunk last, of those that refer to it."""
        row = self._db.execute(
            "SELECT context FROM refs JOIN packs ON packs.id = pack"
            " WHERE key = ? AND context != ? ORDER BY used_s DESC LIMIT 1",
            (key, but),
        ).fetchone()
        return row[0] if row else None

    def keys_in(self, context_id: ContextId) -> list[ChunkKey]:
        """Chunks whose records are in the pack of a context, in the order of the pack."""
        sql = (
            "SELECT key FROM chunks JOIN packs ON packs.id = pack WHERE context = ? ORDER BY start"
        )
        return [key for (key,) in self._db.execute(sql, (context_id,))]

    def live_bytes(self, context_id: ContextId) -> int:
        """Of the pack's records that are in use."""
        sql = "SELECT total(nbytes) FROM chunks JOIN packs ON packs.id = pack WHERE context = ?"
        return int(self._db.execute(sql, (context_id,)).fetchone()[0])

    def remove_pack(self, context_id: ContextId) -> None:
        """Forget a pack, what is in it, and what its context refers to."""
        for table in ("refs", "chunks"):
            self._db.execute(
                f"DELETE FROM {table} WHERE pack = (SELECT id FROM packs WHERE context = ?)",
                (context_id,),
            )
        self._db.execute("DELETE FROM packs WHERE context = ?", (context_id,))

    def pack_bytes(self) -> int:
        """What all packs take on the disk."""
        return int(self._db.execute("SELECT total(length) FROM packs").fetchone()[0])

    def counts(self) -> Counts:
        db = self._db
        packs, length = db.execute("SELECT count(*), total(length) FROM packs").fetchone()
        chunks, live = db.execute("SELECT count(*), total(nbytes) FROM chunks").fetchone()
        (references,) = db.execute("SELECT count(*) FROM refs").fetchone()
        return Counts(packs, chunks, references, int(length), int(live))

    def close(self) -> None:
        self._db.close()
