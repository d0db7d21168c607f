import sqlite3
from pathlib import Path

import pytest

from pliant.contexts.journal import JOURNAL_FILE, Journal
from pliant.contexts.pieces import Piece
from pliant.contexts.store import Store
from pliant.contexts.verify import VerifyReport, verify
from pliant.errors import JournalError
from support.stored_chunks import CONTEXTS, make_chunk, make_key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Journal(tmp_path) as journal, Store(tmp_path) as store:
        for number in range(3):
            context = journal.create("app", "model", system=[Piece([1, 2], 1.0, "system")])
            journal.append(context, [Piece([3], 0.5), Piece([4, 5], 0.5, "assistant")])
            store.put(CONTEXTS[number], make_key(number), make_chunk(number))
    return tmp_path


def check(folder: Path) -> VerifyReport:
    with Journal(folder) as journal, Store(folder) as store:
        return verify(journal, store)


def change(folder: Path, sql: str) -> None:
    with sqlite3.connect(folder / JOURNAL_FILE) as db:
        db.execute(sql)
    db.close()


def test_what_is_whole_is_counted_and_clean(folder: Path) -> None:
    report = check(folder)
    assert report.is_clean and report.problems == ()
    assert (report.num_contexts, report.num_tokens) == (3, 15)
    assert (report.store.num_packs, report.store.num_chunks) == (3, 3)


def test_a_damaged_chunk_is_named_and_left_as_it_is(folder: Path) -> None:
    path = folder / "kv" / f"{CONTEXTS[1]}.pack"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for _ in range(2):
        [problem] = check(folder).problems
        assert CONTEXTS[1] in problem and make_key(1).hex() in problem


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("UPDATE pieces SET tokens = zeroblob(4) WHERE start = 2", "checksum does not match"),
        ("UPDATE pieces SET levels = zeroblob(12) WHERE start = 2", "checksum does not match"),
        ("UPDATE pieces SET role = 'tool' WHERE start = 2", "checksum does not match"),
        ("UPDATE pieces SET num_tokens = 7 WHERE start = 2", "another length"),
        ("DELETE FROM pieces WHERE start = 2", "they end after 2"),
        ("UPDATE contexts SET num_tokens = 9", "they end after 5"),
        ("INSERT INTO branches (parent, inherited) VALUES (NULL, 0)", "belongs to no context"),
        ("PRAGMA foreign_keys=OFF", None),
    ],
)
def test_a_damaged_journal_is_told(folder: Path, sql: str, expected: str | None) -> None:
    change(folder, sql)
    problems = check(folder).problems
    assert all(expected is not None and expected in problem for problem in problems)
    assert bool(problems) == (expected is not None)


def test_dangling_references_are_told(folder: Path) -> None:
    change(folder, "DELETE FROM branches WHERE id = 1")
    assert any("missing row" in problem for problem in check(folder).problems)


def test_damaged_tokens_are_never_handed_out(folder: Path) -> None:
    change(folder, "UPDATE pieces SET tokens = zeroblob(8) WHERE start = 3")
    with Journal(folder) as journal:
        for context in journal.ids():
            with pytest.raises(JournalError, match=f"{context}.*token 3 is damaged"):
                journal.history(context)


def test_a_damaged_database_page_is_told(folder: Path) -> None:
    path = folder / JOURNAL_FILE
    content = bytearray(path.read_bytes())
    content[5 * 4096 : 5 * 4096 + 64] = bytes(64)
    path.write_bytes(content)
    assert check(folder).problems != ()
