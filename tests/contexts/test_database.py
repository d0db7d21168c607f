import sqlite3
from pathlib import Path

import pytest

from pliant.contexts.database import make_private_folder, open_database

APPLICATION = 77
FIRST = "CREATE TABLE notes (text TEXT) STRICT;"
SECOND = "ALTER TABLE notes ADD COLUMN author TEXT;"


def open_with(path: Path, *migrations: str) -> sqlite3.Connection:
    return open_database(path, APPLICATION, migrations, synchronous="FULL")


def test_an_older_version_is_brought_up_to_date_with_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "db"
    first = open_with(path, FIRST)
    first.execute("INSERT INTO notes VALUES ('kept')")
    first.close()
    second = open_with(path, FIRST, SECOND)
    assert second.execute("SELECT text, author FROM notes").fetchall() == [("kept", None)]
    assert second.execute("PRAGMA user_version").fetchone() == (2,)
    second.close()


def test_a_step_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "db"
    open_with(path, FIRST).close()
    with pytest.raises(sqlite3.OperationalError):
        open_with(path, FIRST, SECOND + "CREATE TABLE notes (again);")
    connection = open_with(path, FIRST)
    assert [row[1] for row in connection.execute("PRAGMA table_info(notes)")] == ["text"]
    connection.close()


def test_commits_are_synced(tmp_path: Path) -> None:
    connection = open_with(tmp_path / "db", FIRST)
    settings = ("journal_mode", "synchronous", "foreign_keys", "trusted_schema")
    values = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in settings]
    assert values == ["wal", 2, 1, 0]  # 2 is FULL.
    connection.close()


def test_a_folder_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True, mode=0o755)
    make_private_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
