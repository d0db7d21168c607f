"""Disks that are full, or that cannot be written: answers stay right, with a warning."""

import errno
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pliant.contexts.journal import Journal
from pliant.contexts.pieces import Piece
from pliant.contexts.store import Store
from pliant.errors import JournalWriteError
from support.stored_chunks import CONTEXTS, fill_store, make_chunk, make_key, readable, whole

A, B, C = CONTEXTS
KEYS = [make_key(number) for number in range(30)]
BIG = (40_000, 60_000)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    return fill_store(tmp_path / "contexts")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where we may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_drops_the_oldest_kv(small_disk: Path) -> None:
    with Store(small_disk) as store:
        for number in range(24):
            context = CONTEXTS[number // 8]
            assert store.put(context, KEYS[number], make_chunk(number, sections=BIG)) == (
                store.has(KEYS[number])
            )
        stats = store.stat()
        assert stats.evicted_contexts >= 2
        assert store.verify().problems == ()
        assert not store.has(KEYS[0])
        assert whole(store.read(KEYS[16])) == make_chunk(16, sections=BIG).payload


def test_a_disk_filled_by_others_is_counted_and_warned_of_once(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Store(small_disk) as store:
        assert store.put(A, KEYS[0], make_chunk(0))
        fill(small_disk / "other")
        with caplog.at_level(logging.WARNING):
            for number in range(1, 10):
                assert not store.put(A, KEYS[number], make_chunk(number, sections=BIG))
        assert caplog.text.count("No space left") == 1
        assert store.stat().failed_puts == 9
        assert whole(store.read(KEYS[0])) == make_chunk(0).payload
        (small_disk / "other").unlink()
        assert store.put(A, KEYS[1], make_chunk(1, sections=BIG))
        assert store.verify().problems == ()


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC


def test_the_journal_gets_the_room_of_stored_kv(small_disk: Path) -> None:
    store = Store(small_disk)
    with store, Journal(small_disk, make_room=lambda: store.make_room(1 << 17)) as journal:
        context = journal.create("a", "m")
        for number in range(6):
            assert store.put(CONTEXTS[number % 3], KEYS[number], make_chunk(number, sections=BIG))
        fill(small_disk / "other")
        expected: tuple[int, ...] = ()
        for start in range(0, 20_000, 1000):
            tokens = range(start, start + 1000)
            journal.append(context, [Piece(tokens, 1.0)])
            expected += tuple(tokens)
        assert journal.history(context).tokens == expected
        assert store.stat().evicted_contexts > 0


def test_a_journal_is_opened_on_a_full_disk(small_disk: Path) -> None:
    store = Store(small_disk)
    with store:
        for number in range(6):
            assert store.put(CONTEXTS[number % 3], KEYS[number], make_chunk(number, sections=BIG))
        fill(small_disk / "other")
        with pytest.raises(JournalWriteError, match="free some space"):
            Journal(small_disk)
        with Journal(small_disk, make_room=lambda: store.make_room(1 << 18)) as journal:
            context = journal.create("a", "m", system=[Piece([1], 1.0, "system")])
            assert journal.history(context).tokens == (1,)


def test_a_store_is_opened_on_a_full_disk(small_disk: Path) -> None:
    with Store(small_disk) as store:
        for number in range(4):
            assert store.put(A, KEYS[number], make_chunk(number))
    fill(small_disk / "other")
    with Store(small_disk) as store:
        assert readable(store) == [0, 1, 2, 3]
        store.put(A, KEYS[5], make_chunk(5))
        (small_disk / "other").unlink()
        assert store.put(A, KEYS[6], make_chunk(6))
    with Store(small_disk) as store:
        assert set(readable(store)) >= {0, 1, 2, 3, 6}
        assert store.verify().problems == ()


def test_a_journal_without_room_changes_nothing_and_says_so(small_disk: Path) -> None:
    with Journal(small_disk) as journal:
        context = journal.create("a", "m", system=[Piece([1], 1.0)])
        fill(small_disk / "other")
        length = 1
        with pytest.raises(JournalWriteError, match="free some space"):
            for _ in range(100):
                length = journal.append(context, [Piece(range(3000), 1.0)])
        assert len(journal.history(context).tokens) == length
        (small_disk / "other").unlink()
        assert journal.append(context, [Piece([2], 1.0)]) == length + 1
    with Journal(small_disk) as journal:
        assert len(journal.history(context).tokens) == length + 1
        assert journal.check() == []


@pytest.fixture
def read_only(filled: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The filled store and a journal where nothing can be written."""
    with Journal(filled) as journal:
        journal.create("a", "m", system=[Piece([1, 2, 3], 1.0, "system")])
    if os.geteuid() != 0:
        set_modes(filled, 0o500, 0o400)
        yield filled
        set_modes(filled, 0o700, 0o600)
        return
    disk = request.getfixturevalue("small_disk")
    shutil.copytree(filled, disk, dirs_exist_ok=True)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    yield disk


def set_modes(folder: Path, folders: int, files: int) -> None:
    for path in folder.rglob("*"):
        path.chmod(folders if path.is_dir() else files)
    folder.chmod(folders)


def test_a_read_only_store_is_read_and_put_fails_softly(read_only: Path) -> None:
    with Store(read_only) as store:
        assert readable(store) == [0, 1, 2, 3, 4, 5]
        assert not store.put(A, KEYS[7], make_chunk(7))
        store.drop_context(A)
        store.touch(B)
        assert readable(store) == [0, 1, 2, 3, 4, 5]
        assert store.stat().failed_puts == 1
        assert store.verify().problems == ()
    with Store(read_only / "other") as store:
        assert not store.put(A, KEYS[7], make_chunk(7))


def test_a_read_only_journal_is_read(read_only: Path) -> None:
    with Journal(read_only, read_only=True) as journal:
        (context,) = journal.contexts()
        assert journal.history(context.id).tokens == (1, 2, 3)
        with pytest.raises(JournalWriteError):
            journal.append(context.id, [Piece([4], 1.0)])
    with pytest.raises(JournalWriteError):
        Journal(read_only)
