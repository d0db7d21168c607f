"""The journal: what every context has said so far, as token ids. All else can be rebuilt from it.

It knows neither models nor KV. A call that returned is on the disk: SQLite's write-ahead log is
synced at the end of every transaction, so neither a killed process nor a power failure takes it
back. A method that raises has changed nothing.
"""

import errno
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from reprlib import repr as shorten
from types import TracebackType
from typing import TypeVar

from pliant.contexts import branches
from pliant.contexts.database import make_private_folder, open_database
from pliant.contexts.journal_schema import APPLICATION_ID, MIGRATIONS
from pliant.contexts.pieces import History, Piece
from pliant.errors import (
    ContextsError,
    JournalError,
    JournalWriteError,
    RequestError,
    UnknownContextError,
)

ContextId = str

JOURNAL_FILE = "journal.sqlite"
MAX_NAME_CHARS = 200

_NOT_WRITABLE = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY,
)
_ROOM_ADVICE = "free some space on its disk"
_WRITABLE_ADVICE = "make it writable, or set PLIANT_HOME to another folder"

_T = TypeVar("_T")

_COLUMNS = "id, app, title, model, parent, num_tokens, num_system_tokens, created_s, used_s"


@dataclass(frozen=True)
class ContextInfo:
    """A context without its tokens.

    `model` is the sha256 of the model file whose token ids these are. `parent` is the context it
    was forked from, which may be gone. Times are seconds since 1970.
    """

    id: ContextId
    app: str
    title: str | None
    model: str
    parent: ContextId | None
    num_tokens: int
    num_system_tokens: int
    created_s: float
    used_s: float


class Journal:
    """All contexts of one folder; methods may be called from several threads."""

    def __init__(
        self,
        folder: Path,
        *,
        read_only: bool = False,
        make_room: Callable[[], bool] | None = None,
    ) -> None:
        """Open the journal in `folder`, or begin one.

        Reading only needs no lock on the folder, and works beside the process that has it.
        When the disk is full, `make_room` is asked to free some of it; if it says that it did,
        the write is tried once more. Raises JournalError, and changes nothing, if the file is
        damaged, of another program or of a newer pliant; JournalWriteError if the disk refuses.
        """
        self.path = folder / JOURNAL_FILE
        self._lock = threading.RLock()
        self._make_room = make_room
        if read_only and not self.path.exists():
            raise JournalError(f"there are no contexts in {folder}")
        try:
            self._db = self._open(read_only)
        except JournalWriteError:
            if make_room is None or not make_room():
                raise
            self._db = self._open(read_only)

    def create(
        self, app: str, model: str, *, system: Sequence[Piece] = (), title: str | None = None
    ) -> ContextId:
        """Begin a context of `app` with its system prompt; durable when it returns."""
        _check_name("app", app)
        _check_name("title", title)
        context, now = secrets.token_hex(16), time.time()

        def work(db: sqlite3.Connection) -> None:
            branch = branches.create(db)
            length = branches.append(db, branch, 0, system)
            info = ContextInfo(context, app, title, model, None, length, length, now, now)
            _insert(db, info, branch)

        self._write(work)
        return context

    def append(self, context: ContextId, pieces: Sequence[Piece]) -> int:
        """Add what a call said and was answered, in one transaction; durable when it returns.

        Returns the context's new length in tokens, and counts as a use of it. Raises
        UnknownContextError, JournalWriteError.
        """

        def work(db: sqlite3.Connection) -> int:
            branch, length = self._tip(context)
            length = branches.append(db, branch, length, pieces)
            sql = "UPDATE contexts SET num_tokens = ?, used_s = ? WHERE id = ?"
            db.execute(sql, (length, time.time(), context))
            return length

        return self._write(work)

    def rewrite(self, context: ContextId, start: int, pieces: Sequence[Piece]) -> int:
        """Put `pieces` in the place of everything from token `start` on; durable when it returns.

        `start` is where a piece begins, or the length. Forks keep what they inherited. Returns
        the new length. Raises as `append`, and RequestError for a start inside a piece.
        """

        def work(db: sqlite3.Connection) -> int:
            old, length = self._tip(context)
            kept = branches.read_before(db, old, length, start)
            branch = branches.create(db)
            length = branches.append(db, branch, 0, [*kept, *pieces])
            db.execute(
                "UPDATE contexts SET branch = ?, num_tokens = ?, used_s = ?,"
                " num_system_tokens = min(num_system_tokens, ?) WHERE id = ?",
                (branch, length, time.time(), start, context),
            )
            branches.release(db, old)
            return length

        return self._write(work)

    def fork(self, context: ContextId, *, title: str | None = None) -> ContextId:
        """A new context with the same history, shared and not copied; durable when it returns."""
        _check_name("title", title)
        copy, now = secrets.token_hex(16), time.time()

        def work(db: sqlite3.Connection) -> None:
            info = self.get(context)
            branch, length = self._tip(context)
            forked = replace(
                info, id=copy, parent=context, title=title or info.title, created_s=now, used_s=now
            )
            _insert(db, forked, branches.create(db, branch, length))

        self._write(work)
        return copy

    def delete(self, context: ContextId) -> None:
        """Remove a context, and overwrite what no fork of it shares; durable when it returns."""

        def work(db: sqlite3.Connection) -> None:
            branch, _ = self._tip(context)
            db.execute("DELETE FROM contexts WHERE id = ?", (context,))
            branches.release(db, branch)

        self._write(work)
        self._empty_log()  # It may hold what was overwritten in the database.

    def pieces(self, context: ContextId) -> list[Piece]:
        """The whole history in pieces. Raises JournalError if a checksum or a length is wrong."""
        with self._read() as db:
            branch, length = self._tip(context)
            try:
                return branches.read(db, branch, length)
            except JournalError as error:
                raise JournalError(f"{self.path}, context {context}: {error}") from error

    def history(self, context: ContextId) -> History:
        """The whole history as tokens and levels; raises as `pieces`."""
        return History.of(self.pieces(context))

    def get(self, context: ContextId, app: str | None = None) -> ContextInfo:
        """What is known of a context. Raises UnknownContextError, also if it is another app's."""
        with self._read() as db:
            sql = f"SELECT {_COLUMNS} FROM contexts WHERE id = ?"
            row = db.execute(sql, (context,)).fetchone()
        if row is None or (app is not None and row[1] != app):
            raise _unknown(context)
        return ContextInfo(*row)

    def contexts(self, app: str | None = None) -> list[ContextInfo]:
        """All contexts, or those of an app; last used first."""
        where, values = ("", ()) if app is None else ("WHERE app = ?", (app,))
        with self._read() as db:
            sql = f"SELECT {_COLUMNS} FROM contexts {where} ORDER BY used_s DESC, id"
            return [ContextInfo(*row) for row in db.execute(sql, values)]

    def ids(self) -> set[ContextId]:
        """Every context there is."""
        with self._read() as db:
            return {context for (context,) in db.execute("SELECT id FROM contexts")}

    def check(self) -> list[str]:
        """Read everything; a sentence for each thing that is wrong."""
        try:
            with self._read() as db:
                rows = db.execute("PRAGMA integrity_check").fetchall()
                found = [problem for (problem,) in rows if problem != "ok"] or branches.check(db)
            return [f"{self.path}: {problem}" for problem in found] + self._unreadable()
        except JournalError as error:
            return [str(error)]

    def _unreadable(self) -> list[str]:
        """What is wrong with each context whose tokens cannot be read."""
        problems = []
        for context in sorted(self.ids()):
            try:
                self.pieces(context)
            except JournalError as error:
                problems.append(str(error))
        return problems

    def close(self) -> None:
        """Idempotent. Nothing is lost without it."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, read_only: bool) -> sqlite3.Connection:
        try:
            if not read_only:
                make_private_folder(self.path.parent)
            return open_database(
                self.path, APPLICATION_ID, MIGRATIONS, synchronous="FULL", read_only=read_only
            )
        except OSError as error:
            advice = _ROOM_ADVICE if error.errno == errno.ENOSPC else _WRITABLE_ADVICE
            message = f"{self.path} cannot be opened ({error}): {advice}"
            raise JournalWriteError(message) from error
        except sqlite3.OperationalError as error:
            raise self._explain(error) from error

    def _tip(self, context: ContextId) -> tuple[int, int]:
        """Branch and length of a context."""
        sql = "SELECT branch, num_tokens FROM contexts WHERE id = ?"
        row = self._db.execute(sql, (context,)).fetchone()
        if row is None:
            raise _unknown(context)
        return int(row[0]), int(row[1])

    def _write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `work` in a transaction, once more if the disk was full and room was made."""
        with self._lock:
            try:
                return self._transact(work)
            except JournalWriteError:
                if self._make_room is None or not self._make_room():
                    raise
                self._empty_log()
            return self._transact(work)

    def _empty_log(self) -> None:
        with self._lock, suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _transact(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                result = work(self._db)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            return result
        except sqlite3.Error as error:
            raise self._explain(error) from error

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise self._explain(error) from error

    def _explain(self, error: sqlite3.Error) -> ContextsError:
        """Cannot be written now, or cannot be read at all?"""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _NOT_WRITABLE:
            advice = _WRITABLE_ADVICE if code == sqlite3.SQLITE_READONLY else _ROOM_ADVICE
            return JournalWriteError(f"{self.path} cannot be written ({error}): {advice}")
        return JournalError(f"{self.path} cannot be read: {error}")


def _insert(db: sqlite3.Connection, info: ContextInfo, branch: int) -> None:
    marks = ", ".join("?" * 10)
    db.execute(
        f"INSERT INTO contexts ({_COLUMNS}, branch) VALUES ({marks})", (*astuple(info), branch)
    )


def _check_name(field: str, text: str | None) -> None:
    """Names are shown on terminals and in logs."""
    if text is None:
        return
    if not text or len(text) > MAX_NAME_CHARS or not text.isprintable():
        raise RequestError(f"{field} must have 1 to {MAX_NAME_CHARS} printable characters")


def _unknown(context: ContextId) -> UnknownContextError:
    return UnknownContextError(f"there is no context {shorten(context)}")
