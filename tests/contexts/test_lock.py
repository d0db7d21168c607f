import os
import subprocess
import sys
from pathlib import Path

import pytest

from pliant.contexts.lock import FolderLock
from pliant.errors import ContextsError, ContextsInUseError


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    folder = tmp_path / "contexts"
    with FolderLock(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "lock").stat().st_mode & 0o777 == 0o600
        with pytest.raises(ContextsInUseError, match=rf"process \({os.getpid()}\) .* PLIANT_HOME"):
            FolderLock(folder)
    FolderLock(folder).close()


def test_a_killed_owner_leaves_the_folder_free(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from pliant.contexts.lock import FolderLock\n"
        "lock = FolderLock(Path(sys.argv[1])); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], timeout=60)
    assert done.returncode == -9
    FolderLock(tmp_path).close()


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.close()
    lock.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ContextsError, match=r"contexts cannot be kept in .*file"):
        FolderLock(tmp_path / "file" / "contexts")
