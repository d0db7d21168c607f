"""What happens to the disk must cost time, never data, and never give a wrong byte."""

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pliant.contexts.journal import Journal
from pliant.contexts.packs import START
from pliant.contexts.pieces import Piece
from pliant.contexts.storage import Disk
from pliant.contexts.store import Store
from pliant.errors import ChunkCorruptError, ChunkMissingError, JournalWriteError
from support.stored_chunks import CONTEXTS, make_chunk, make_key, whole

A, B, C = CONTEXTS
KEYS = [make_key(number) for number in range(30)]
BIG = (40_000, 60_000)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A store with chunks 0..3 in A's pack and 4..5 in B's."""
    folder = tmp_path / "contexts"
    with Store(folder) as store:
        for number in range(6):
            assert store.put(A if number < 4 else B, KEYS[number], make_chunk(number))
    return folder


def pack(folder: Path, context: str = A) -> Path:
    return folder / "kv" / f"{context}.pack"


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x10]))


def remove_index(folder: Path) -> None:
    for path in (folder / "kv").glob("index.sqlite*"):
        path.unlink()


def readable(store: Store) -> list[int]:
    """Numbers of the chunks that are read, each of which must be right."""
    numbers = []
    for number, key in enumerate(KEYS):
        try:
            assert whole(store.read(key)) == make_chunk(number).payload
            numbers.append(number)
        except (ChunkMissingError, ChunkCorruptError):
            pass
    return numbers


def test_a_flipped_bit_is_told_once_and_the_chunk_can_be_stored_again(
    filled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Store(filled) as store:
        flip(pack(filled), pack(filled).stat().st_size - 10)
        assert any("damaged" in problem for problem in store.verify().problems)
        assert whole(store.read(KEYS[3], [0])) == make_chunk(3).payload[:100]
        with caplog.at_level(logging.WARNING), pytest.raises(ChunkCorruptError, match="damaged"):
            store.read(KEYS[3])
        assert "computed again" in caplog.text
        with pytest.raises(ChunkMissingError):
            store.read(KEYS[3])
        assert store.stat().corrupt == 1
        assert store.verify().problems == ()
        assert store.put(A, KEYS[3], make_chunk(3))
        assert readable(store) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("with_index", [True, False])
def test_every_place_may_be_damaged(filled: Path, tmp_path: Path, with_index: bool) -> None:
    size = pack(filled).stat().st_size
    for offset in range(0, size, 97):
        copy = tmp_path / "copy"
        shutil.copytree(filled, copy)
        if not with_index:
            remove_index(copy)
        flip(pack(copy), offset)
        with Store(copy) as store:
            left = readable(store)
            assert left[-2:] == [4, 5] and len(left) >= (5 if with_index else 2)
            for number in range(6):
                assert store.put(A, KEYS[number], make_chunk(number))
            assert readable(store) == [0, 1, 2, 3, 4, 5]
            # The index knows the head of a record as well, so a damaged one is only reported.
            assert all("head of chunk" in problem for problem in store.verify().problems)
        shutil.rmtree(copy)


@pytest.mark.parametrize("with_index", [True, False])
def test_a_pack_may_end_anywhere(filled: Path, tmp_path: Path, with_index: bool) -> None:
    size = pack(filled).stat().st_size
    record = (size - START) // 4
    for length in [*range(0, size, 61), START, START + record, size - 1]:
        copy = tmp_path / "copy"
        shutil.copytree(filled, copy)
        if not with_index:
            remove_index(copy)
        os.truncate(pack(copy), length)
        with Store(copy) as store:
            kept = max(0, (length - START) // record)
            assert readable(store) == [*range(kept), 4, 5]
            assert store.verify().problems == ()
            for number in range(6):
                assert store.put(A, KEYS[number], make_chunk(number))
        with Store(copy) as store:
            assert readable(store) == [0, 1, 2, 3, 4, 5]
        shutil.rmtree(copy)


@pytest.mark.parametrize("tail", [b"\0" * 500, b"PLC1" + b"\1" * 300, os.urandom(77)])
def test_a_torn_end_is_cut_off(filled: Path, tail: bytes, caplog: pytest.LogCaptureFixture) -> None:
    size = pack(filled).stat().st_size
    with pack(filled).open("ab") as file:
        file.write(tail)
    with caplog.at_level(logging.WARNING), Store(filled) as store:
        assert f"cutting off {len(tail)} torn bytes" in caplog.text
        assert pack(filled).stat().st_size == size
        assert readable(store) == [0, 1, 2, 3, 4, 5]


def test_a_pack_may_be_deleted_or_cut_while_the_store_is_open(filled: Path) -> None:
    with Store(filled) as store:
        pack(filled).unlink()
        assert readable(store) == [4, 5]
        assert store.put(A, KEYS[0], make_chunk(0))
        os.truncate(pack(filled, B), 100)
        assert store.put(B, KEYS[6], make_chunk(6))
        assert readable(store) == [0, 6]
        assert store.verify().problems == ()
    with Store(filled) as store:
        assert readable(store) == [0, 6]


def test_an_index_damaged_in_the_middle_is_made_again(filled: Path) -> None:
    path = filled / "kv" / "index.sqlite"
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with Store(filled) as store:
        assert readable(store) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, None])
def test_a_damaged_index_is_made_again(filled: Path, content: bytes | None) -> None:
    for side in ("-wal", "-shm"):
        (filled / "kv" / f"index.sqlite{side}").unlink(missing_ok=True)
    path = filled / "kv" / "index.sqlite"
    path.write_bytes(path.read_bytes()[:4096] if content is None else content)
    with Store(filled) as store:
        for _ in range(2):
            left = readable(store)
        assert left == [0, 1, 2, 3, 4, 5]
        assert store.verify().problems == ()


def test_flipped_bits_of_the_index_never_give_wrong_data(filled: Path, tmp_path: Path) -> None:
    size = (filled / "kv" / "index.sqlite").stat().st_size
    for offset in range(24, size, 997):
        copy = tmp_path / "copy"
        shutil.copytree(filled, copy)
        flip(copy / "kv" / "index.sqlite", offset)
        with Store(copy) as store:
            readable(store)
            for number in range(6):
                store.put(C, KEYS[number], make_chunk(number))
            readable(store)
        shutil.rmtree(copy)


def test_a_device_that_fails_to_read_is_as_a_damaged_chunk(
    filled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Disk):
        def read(self, file: int, offset: int, nbytes: int) -> memoryview:
            raise OSError(errno.EIO, "Input/output error")

    with Store(filled, device=Failing()) as store:
        with pytest.raises(ChunkCorruptError), caplog.at_level(logging.WARNING):
            store.read(KEYS[0])
        assert "Input/output error" in caplog.text
        assert not store.has(KEYS[0]) and store.has(KEYS[1])


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
def read_only(filled: Path, small_disk: Path) -> Path:
    """The filled store and a journal on a file system that cannot be written."""
    shutil.copytree(filled, small_disk, dirs_exist_ok=True)
    with Journal(small_disk) as journal:
        journal.create("a", "m", system=[Piece([1, 2, 3], 1.0, "system")])
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    return small_disk


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


def test_a_pack_may_reach_the_limit_of_file_sizes(tmp_path: Path) -> None:
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from pliant.contexts.store import Store\n"
        "from support.stored_chunks import *\n"
        "store = Store(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, 250_000))\n"
        "print([store.put(CONTEXTS[0], make_key(n), make_chunk(n, sections=(100_000,)))"
        " for n in range(4)])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[True, True, False, False]", done.stderr
    with Store(tmp_path) as store:
        assert whole(store.read(KEYS[1])) == make_chunk(1, sections=(100_000,)).payload
        assert store.verify().problems == ()
