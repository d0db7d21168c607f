"""What the journal keeps, and what it refuses. Its random walks are in test_journal_states."""

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pliant.contexts.journal import JOURNAL_FILE, Journal
from pliant.contexts.journal_schema import MIGRATIONS
from pliant.contexts.pieces import Piece
from pliant.errors import JournalError, JournalWriteError, RequestError, UnknownContextError

MODEL = "ab" * 32
SYSTEM = Piece([1, 2, 3], 1.0, "system")


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "contexts")


def test_a_context_is_there_after_reopening(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        context = journal.create("mail", MODEL, system=[SYSTEM], title="Holidays")
        assert journal.append(context, [Piece([4], 0.5), Piece([5, 6], 0.3, "assistant")]) == 6
    with Journal(tmp_path) as journal:
        history = journal.history(context)
        assert history.tokens == (1, 2, 3, 4, 5, 6)
        assert history.levels == (1.0, 1.0, 1.0, 0.5, 0.3, 0.3)
        assert [piece.role for piece in journal.pieces(context)] == ["system", "user", "assistant"]
        info = journal.get(context, "mail")
        assert (info.app, info.title, info.model) == ("mail", "Holidays", MODEL)
        assert (info.num_tokens, info.num_system_tokens, info.parent) == (6, 3, None)
        assert info.created_s < info.used_s
        assert journal.check() == []


def test_every_commit_is_synced(journal: Journal) -> None:
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_was_acknowledged_is_there_without_closing(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from pliant.contexts.journal import Journal\n"
        "from pliant.contexts.pieces import Piece\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "context = journal.create('a', 'm')\n"
        "journal.append(context, [Piece([7, 8], 1.0)])\n"
        "print(context, flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=60
    )
    with Journal(tmp_path) as journal:
        assert journal.history(done.stdout.strip()).tokens == (7, 8)


def test_forks_share_the_past_and_not_the_future(journal: Journal) -> None:
    first = journal.create("a", MODEL, system=[SYSTEM], title="One")
    journal.append(first, [Piece([4], 1.0)])
    second = journal.fork(first)
    third = journal.fork(second, title="Three")
    journal.append(first, [Piece([10], 1.0)])
    journal.append(second, [Piece([20], 1.0)])
    journal.append(third, [Piece([30], 1.0)])
    fourth = journal.fork(second)
    tokens = [journal.history(context).tokens[3:] for context in (first, second, third, fourth)]
    assert tokens == [(4, 10), (4, 20), (4, 30), (4, 20)]
    assert [journal.get(context).title for context in (second, third)] == ["One", "Three"]
    assert journal.get(second).parent == first
    assert journal.get(third).num_system_tokens == 3


def test_forking_does_not_copy(journal: Journal) -> None:
    context = journal.create("a", MODEL, system=[Piece(range(100_000), 1.0, "system")])
    size = journal_bytes(journal)
    for _ in range(50):
        context = journal.fork(context)
    assert journal_bytes(journal) - size < 4_000_000  # Copies would be 20 MB.
    assert len(journal.history(context).tokens) == 100_000


def journal_bytes(journal: Journal) -> int:
    return sum(path.stat().st_size for path in journal.path.parent.glob(f"{JOURNAL_FILE}*"))


def test_deleting_leaves_what_forks_need_and_nothing_else(journal: Journal) -> None:
    first = journal.create("a", MODEL, system=[SYSTEM])
    second = journal.fork(first)
    third = journal.fork(second)
    journal.append(third, [Piece([9], 1.0)])
    journal.delete(second)
    journal.delete(first)
    assert journal.history(third).tokens == (1, 2, 3, 9)
    assert journal.check() == []
    journal.delete(third)
    assert journal.ids() == set()
    for table in ("branches", "pieces", "contexts"):
        assert rows(journal, f"SELECT count(*) FROM {table}") == [(0,)]


def test_deleted_tokens_do_not_stay_in_the_file(tmp_path: Path) -> None:
    secret = list(range(5000, 5064))
    encoded = encode_tokens(secret)
    with Journal(tmp_path) as journal:
        context = journal.create("a", MODEL, system=[Piece(secret, 1.0, "system")])
    assert encoded in (tmp_path / JOURNAL_FILE).read_bytes()
    with Journal(tmp_path) as journal:
        journal.delete(context)
        assert not any(encoded in path.read_bytes() for path in tmp_path.iterdir())


def encode_tokens(tokens: list[int]) -> bytes:
    return b"".join(token.to_bytes(4, "little") for token in tokens)


def rows(journal: Journal, sql: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(journal.path) as db:
        result = db.execute(sql).fetchall()
    db.close()
    return result


def test_rewriting_replaces_the_end_and_leaves_forks_alone(journal: Journal) -> None:
    context = journal.create("a", MODEL, system=[SYSTEM])
    journal.append(context, [Piece([4, 5], 1.0), Piece([6], 1.0, "assistant")])
    fork = journal.fork(context)
    assert journal.rewrite(context, 3, [Piece([9], 0.5)]) == 4
    assert journal.history(context).tokens == (1, 2, 3, 9)
    assert journal.history(context).levels[3] == 0.5
    assert journal.history(fork).tokens == (1, 2, 3, 4, 5, 6)
    assert journal.rewrite(fork, 0, [Piece([8], 1.0)]) == 1
    assert journal.get(fork).num_system_tokens == 0
    with pytest.raises(RequestError, match="token 2 of 4 is not where a piece"):
        journal.rewrite(context, 2, [])
    with pytest.raises(RequestError):
        journal.rewrite(context, 5, [])
    assert journal.history(context).tokens == (1, 2, 3, 9)
    assert journal.check() == []


def test_threads_append_one_after_the_other(journal: Journal) -> None:
    context = journal.create("a", MODEL)

    def work(number: int) -> None:
        for _ in range(10):
            journal.append(context, [Piece([number] * 3, 1.0)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pieces = journal.pieces(context)
    assert sorted(piece.tokens[0] for piece in pieces) == sorted([0, 1, 2, 3] * 10)
    assert journal.check() == []


def test_contexts_are_listed_by_app_last_used_first(journal: Journal) -> None:
    one, two, other = (journal.create(app, MODEL) for app in ("a", "a", "b"))
    journal.append(one, [Piece([1], 1.0)])
    assert [context.id for context in journal.contexts("a")] == [one, two]
    assert {context.id for context in journal.contexts()} == {one, two, other} == journal.ids()


def test_an_app_does_not_see_anothers_contexts(journal: Journal) -> None:
    context = journal.create("a", MODEL)
    assert journal.get(context, "a").app == "a"
    with pytest.raises(UnknownContextError, match="no context"):
        journal.get(context, "b")


def test_unknown_contexts_are_named(journal: Journal) -> None:
    for method in (journal.history, journal.fork, journal.delete, journal.get):
        with pytest.raises(UnknownContextError, match="'nobody'"):
            method("nobody")
    with pytest.raises(UnknownContextError):
        journal.append("nobody", [Piece([1], 1.0)])


@pytest.mark.parametrize("name", ["", "a" * 201, "line\nbreak", "\x1b[31m"])
def test_names_are_printable(journal: Journal, name: str) -> None:
    with pytest.raises(RequestError, match="printable"):
        journal.create(name, MODEL)
    with pytest.raises(RequestError, match="printable"):
        journal.create("a", MODEL, title=name)


def test_files_are_private(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir(mode=0o755)
    with Journal(folder) as journal:
        journal.create("a", MODEL)
        assert folder.stat().st_mode & 0o777 == 0o700
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert set(modes.values()) == {0o600} and len(modes) == 3


def test_a_link_in_the_journals_place_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.touch()
    (tmp_path / JOURNAL_FILE).symlink_to(target)
    with pytest.raises(JournalWriteError, match="cannot be opened"):
        Journal(tmp_path)


def test_reading_only_needs_no_lock_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no contexts in"):
        Journal(tmp_path, read_only=True)
    with Journal(tmp_path) as journal:
        context = journal.create("a", MODEL, system=[SYSTEM])
        with Journal(tmp_path, read_only=True) as reader:
            assert reader.history(context).tokens == (1, 2, 3)
    before = {path.name for path in tmp_path.iterdir()}
    with Journal(tmp_path, read_only=True) as reader:
        assert reader.history(context).tokens == (1, 2, 3)
    assert {path.name for path in tmp_path.iterdir()} == before == {JOURNAL_FILE}


def test_a_newer_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    Journal(tmp_path).close()
    path = tmp_path / JOURNAL_FILE
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    db.close()
    content = path.read_bytes()
    with pytest.raises(JournalError, match=r"newer pliant \(format 2, this one knows 1\)"):
        Journal(tmp_path)
    assert path.read_bytes() == content


def test_the_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_FILE
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE notes (text)")
    db.close()
    content = path.read_bytes()
    with pytest.raises(JournalError, match="another program"):
        Journal(tmp_path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" * 300])
def test_a_file_that_is_no_database_is_refused_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / JOURNAL_FILE
    path.write_bytes(content)
    with pytest.raises(JournalError, match="damaged"):
        Journal(tmp_path)
    assert path.read_bytes() == content
