"""SQLite files of pliant's own: private, with a version, and never mistaken for another's."""

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from pliant.errors import JournalError

_BUSY_SECONDS = 5.0
_LOG_PAGES = 256  # Of 4 KiB: the log is copied into the database before it takes much space.
_CACHE_KIB = 512  # The system has what was read before, too.
_PRIVATE = 0o600


def make_private_folder(folder: Path) -> None:
    """Create `folder`, durably, or take other users' access to it away. Raises OSError."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(exist_ok=True, mode=0o700)
        _sync(missing.parent)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def _sync(folder: Path) -> None:
    """Bring the entries of a folder to the device."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def open_database(
    path: Path,
    application_id: int,
    migrations: Sequence[str],
    *,
    synchronous: str,
    read_only: bool = False,
) -> sqlite3.Connection:
    """Open or create the database at `path`, in WAL mode, brought to the newest version.

    `migrations[i]` leads from version i to i + 1. Autocommit: transactions are the caller's.
    Raises JournalError for a file of another kind, of a newer version, or one that SQLite cannot
    read, and leaves it as it is; sqlite3.OperationalError or OSError if the file system refuses.
    """
    if not read_only:
        _create(path)
    connection = sqlite3.connect(
        _uri(path, read_only),
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        _check_kind(connection, path, application_id, len(migrations))
        _configure(connection, synchronous)
        if not read_only:
            connection.execute("PRAGMA journal_mode=WAL")
            _migrate(connection, application_id, migrations)
    except sqlite3.OperationalError:
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        connection.close()
        raise JournalError(f"{path} is damaged ({error}); nothing was changed in it") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _create(path: Path) -> None:
    """SQLite gives its side files the mode of the database, so this one counts for all."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), _PRIVATE))


def _uri(path: Path, read_only: bool) -> str:
    uri = path.absolute().as_uri()
    if not read_only:
        return f"{uri}?mode=rw"
    # Without a log there is nothing that the file lacks, and no side file is needed to read it.
    log = path.with_name(f"{path.name}-wal")
    has_log = log.exists() and log.stat().st_size > 0
    return f"{uri}?mode=ro" if has_log else f"{uri}?mode=ro&immutable=1"


def _check_kind(
    connection: sqlite3.Connection, path: Path, application_id: int, newest: int
) -> None:
    (found,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if found != application_id and (found or tables or version):
        raise JournalError(f"{path} is a database of another program; move it away")
    if version > newest:
        raise JournalError(
            f"{path} was written by a newer pliant (format {version}, this one knows {newest}): "
            "upgrade pliant, or set PLIANT_HOME to another folder"
        )


def _configure(connection: sqlite3.Connection, synchronous: str) -> None:
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")
    connection.execute("PRAGMA secure_delete=ON")


def _migrate(
    connection: sqlite3.Connection, application_id: int, migrations: Sequence[str]
) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == len(migrations):
        return
    steps = "\n".join(migrations[version:])
    connection.executescript(
        f"BEGIN IMMEDIATE;\n{steps}\nPRAGMA application_id={application_id};\n"
        f"PRAGMA user_version={len(migrations)};\nCOMMIT;"
    )
