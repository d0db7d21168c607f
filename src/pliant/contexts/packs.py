"""Pack files: one per context, named by its id, to which records are appended.

Knows files and records, not which of them are in use. A pack begins with its magic and the id of
its context. Methods raise OSError as the system does, except where they say otherwise.
"""

import errno
import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pliant.contexts.journal import ContextId
from pliant.contexts.records import Head, decode_head, head_bytes
from pliant.contexts.storage import Disk
from pliant.errors import ChunkCorruptError

_MAGIC = b"PLIANTK1"
_ID = re.compile(r"[0-9a-f]{32}")
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_PRIVATE = 0o600
_MAX_OPEN_FILES = 64
_HEAD_GUESS_BYTES = 4096

START = len(_MAGIC) + 32  # Where a pack's first record begins.

Buffer = bytes | bytearray | memoryview


class OpenFile:
    """A file that stays open as long as anyone reads from it."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | _NOFOLLOW)

    @property
    def is_deleted(self) -> bool:
        return os.fstat(self.number).st_nlink == 0

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class Packs:
    """The pack files in a folder. Not safe for several threads, but for `OpenFile`s in use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._disk = Disk()
        self._open: OrderedDict[ContextId, OpenFile] = OrderedDict()

    def sizes(self) -> dict[ContextId, int]:
        """Bytes of every pack there is; what a broken-off `rewrite` left is deleted."""
        sizes = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                name, _, suffix = entry.name.partition(".")
                if suffix == "new":
                    with suppress(OSError):
                        os.unlink(entry.path)  # noqa: PTH108
                elif (
                    suffix == "pack"
                    and _ID.fullmatch(name)
                    and entry.is_file(follow_symlinks=False)
                ):
                    sizes[name] = entry.stat(follow_symlinks=False).st_size
        return sizes

    def open(self, context_id: ContextId) -> OpenFile:
        """The pack, to read from."""
        file = self._open.pop(context_id, None)
        if file is None or file.is_deleted:
            file = OpenFile(self.path(context_id))
        self._open[context_id] = file
        if len(self._open) > _MAX_OPEN_FILES:
            self._open.popitem(last=False)
        return file

    def append(self, context_id: ContextId, end: int, parts: Iterable[Buffer]) -> int:
        """Write a record's parts at `end`, 0 for a new pack; the new end.

        What lies after `end` is cut off. If writing fails, the pack ends there. Raises
        FileNotFoundError, or OSError with ESTALE, if a pack that should be there is not, or ends
        before `end`.
        """
        flags = os.O_RDWR | _NOFOLLOW | (0 if end else os.O_CREAT)
        file = os.open(self.path(context_id), flags, _PRIVATE)
        try:
            if os.fstat(file).st_size < end:
                raise OSError(errno.ESTALE, "it is shorter than it was", self.path(context_id))
            os.ftruncate(file, end)
            head = [] if end else [_MAGIC + context_id.encode()]
            return _write(file, end, [*head, *parts])
        except BaseException:
            with suppress(OSError):
                if os.fstat(file).st_size > end:
                    os.ftruncate(file, end)
            raise
        finally:
            os.close(file)

    def truncate(self, context_id: ContextId, end: int) -> None:
        """Cut off what lies after `end`; a pack of nothing is deleted."""
        if end == 0:
            self.remove(context_id)
        else:
            os.truncate(self.path(context_id), end)

    def remove(self, context_id: ContextId) -> None:
        self._open.pop(context_id, None)
        self.path(context_id).unlink(missing_ok=True)

    def rewrite(self, context_id: ContextId, parts: Iterable[Buffer]) -> int:
        """Put other records in a pack's place, in one step; the new end."""
        self._open.pop(context_id, None)
        path = self.path(context_id)
        temporary = path.with_suffix(".new")
        file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | _NOFOLLOW, _PRIVATE)
        try:
            end = _write(file, 0, [_MAGIC + context_id.encode(), *parts])
            os.fsync(file)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        return end

    def sync(self, context_id: ContextId) -> None:
        """Bring the pack and its entry in the folder to the device."""
        for path in (self.path(context_id), self.folder):
            file = os.open(path, os.O_RDONLY | _NOFOLLOW)
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def scan(self, context_id: ContextId, start: int, size: int) -> Iterator[tuple[int, Head]]:
        """Offset and head of each record from `start` on, as far as they are whole.

        Only heads are read. A pack that does not begin as one has no records.
        """
        self._open.pop(context_id, None)
        file = self.open(context_id)
        if start == 0:
            start = START
            if self._disk.read(file.number, 0, START) != _MAGIC + context_id.encode():
                return
        while start < size:
            try:
                head = self.read_head(file, start)
            except ChunkCorruptError:
                return
            if start + head.nbytes > size:
                return
            yield start, head
            start += head.nbytes

    def read_head(self, file: OpenFile, offset: int) -> Head:
        """The head of the record at `offset`; raises ChunkCorruptError if there is none."""
        begin = self._disk.read(file.number, offset, _HEAD_GUESS_BYTES)
        nbytes = head_bytes(begin)
        if nbytes > len(begin):
            begin = self._disk.read(file.number, offset, nbytes)
        return decode_head(bytes(begin[:nbytes]))

    def read_record(self, file: OpenFile, offset: int, head: Head) -> memoryview:
        """The whole record, compared with its checksums; raises ChunkCorruptError."""
        record = self._disk.read(file.number, offset, head.nbytes)
        if record[: len(head.raw)] != head.raw:
            raise ChunkCorruptError(f"the head of chunk {head.info.key.hex()} is damaged")
        if head.info.sections:
            head.check_run(0, len(head.info.sections), record[len(head.raw) :])
        return record

    def path(self, context_id: ContextId) -> Path:
        """Where the pack of a context is; ValueError for anything but an id."""
        if not _ID.fullmatch(context_id):
            raise ValueError(f"{context_id!r} is not the id of a context")
        return self.folder / f"{context_id}.pack"

    def close(self) -> None:
        self._open.clear()


def _write(file: int, offset: int, parts: Iterable[Buffer]) -> int:
    for part in parts:
        view = memoryview(part).cast("B")
        while view:
            count = os.pwrite(file, view, offset)
            view = view[count:]
            offset += count
    return offset
