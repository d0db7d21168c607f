"""Stores to damage, and small disks to fill."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pliant.contexts.store import Store
from support.stored_chunks import CONTEXTS, make_chunk, make_key


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A store with chunks 0..3 in A's pack and 4..5 in B's."""
    folder = tmp_path / "contexts"
    with Store(folder) as store:
        for number in range(6):
            assert store.put(CONTEXTS[number // 4], make_key(number), make_chunk(number))
    return folder


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
