"""What happens to the disk must cost time, never data, and never give a wrong byte."""

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pliant.contexts.packs import START, OpenFile
from pliant.contexts.storage import Disk
from pliant.contexts.store import Store
from pliant.errors import ChunkCorruptError, ChunkMissingError
from support.stored_chunks import CONTEXTS, fill_store, make_chunk, make_key, readable, whole

A, B, C = CONTEXTS
KEYS = [make_key(number) for number in range(30)]


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    return fill_store(tmp_path / "contexts")


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


@pytest.mark.parametrize("kind", ["link", "folder", "unreadable"])
def test_what_is_no_pack_does_not_hide_the_others(
    filled: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack(filled, C)
    if kind == "link":
        path.symlink_to(pack(filled))
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(pack(filled).read_bytes())
        monkeypatch.setattr(OpenFile, "__init__", failing_for(path))
    remove_index(filled)
    with Store(filled) as store:
        assert readable(store) == [0, 1, 2, 3, 4, 5]
        assert store.verify().problems == ()
        assert store.put(C, KEYS[6], make_chunk(6)) == (kind == "unreadable")


def failing_for(path: Path) -> Callable[[OpenFile, Path], None]:
    opening = OpenFile.__init__

    def fail(self: OpenFile, opened: Path) -> None:
        if opened == path:
            self.number = -1
            raise OSError(errno.EIO, "Input/output error")
        opening(self, opened)

    return fail


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
