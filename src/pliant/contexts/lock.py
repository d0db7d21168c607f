"""One process at a time owns a folder of contexts."""

import fcntl
import os
from pathlib import Path
from types import TracebackType

from pliant.contexts.database import make_private_folder
from pliant.errors import ContextsError, ContextsInUseError

LOCK_FILE = "lock"


class FolderLock:
    """Held until `close`, or until the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        """Raises ContextsInUseError if another process has the folder, ContextsError if it
        cannot be made."""
        path = folder / LOCK_FILE
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            make_private_folder(folder)
            self._file = os.open(path, flags, 0o600)
        except OSError as error:
            raise ContextsError(f"contexts cannot be kept in {folder}: {error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._file, 32, 0).decode(errors="replace").strip()
            self.close()
            raise ContextsInUseError(
                f"another pliant process ({owner or 'unknown'}) keeps its contexts in {folder}: "
                "stop it, or set PLIANT_HOME to another folder"
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()
