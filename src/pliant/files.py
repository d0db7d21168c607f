"""Reading files that people name, and writing files that are there as a whole or not at all."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def read_file(path: Path) -> bytes:
    """All of a regular file. Raises OSError; also for a pipe or a device, which may never end."""
    require_file(path)
    return path.read_bytes()


def require_file(path: Path) -> None:
    """Raises OSError if something that is no regular file has this name."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a file", str(path))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; the file there takes the place of `path` at the end.

    Readers see all of it or what was before, also after a power cut. If writing fails, `path`
    stays as it was. Lets OSError through.
    """
    draft = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
