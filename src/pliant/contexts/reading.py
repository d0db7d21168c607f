"""Reads of several sections at once: neighbours in a pack are one read of the device."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from pliant.contexts.chunks import StoredSections
from pliant.contexts.identity import ChunkKey
from pliant.contexts.packs import OpenFile
from pliant.contexts.records import Head
from pliant.contexts.storage import Device
from pliant.errors import ChunkCorruptError, ChunkMissingError

logger = logging.getLogger(__name__)

# Reading so much for nothing costs less than another read on anything but memory.
_GAP_BYTES = 16 << 10
_MAX_READ_BYTES = 8 << 20
_NOTHING = memoryview(b"")

Outcome = StoredSections | ChunkMissingError | ChunkCorruptError


@dataclass(frozen=True)
class Located:
    """Sections `indices` of the chunk whose record begins at `start` of an open pack."""

    file: OpenFile
    start: int
    head: Head
    indices: tuple[int, ...]

    def part(self, sections: Sequence[int]) -> "Located":
        """Other sections of the chunk; raises IndexError for those that it has not."""
        count = len(self.head.info.sections)
        if not all(0 <= index < count for index in sections):
            raise IndexError(f"sections {sections} of a chunk that has {count}")
        return replace(self, indices=tuple(sections))


# What to read of a chunk, by its key or where it was located: all sections, or those of these
# indices.
Wanted = tuple[ChunkKey | Located, Sequence[int] | None]


@dataclass(frozen=True)
class _Extent:
    """Bytes `start`..`end` of a pack: `count` sections from `first` on of item `item`.

    They are the item's indices from `position` on.
    """

    start: int
    end: int
    item: int
    position: int
    first: int
    count: int


def read_located(device: Device, items: Sequence[Located]) -> list[Outcome]:
    """One outcome per item, in order. What the device cannot read counts as damaged."""
    extents: dict[OpenFile, list[_Extent]] = defaultdict(list)
    for number, item in enumerate(items):
        extents[item.file] += _extents(number, item)
    data: list[dict[int, tuple[int, memoryview]]] = [{} for _ in items]
    failed: dict[int, ChunkCorruptError] = {}
    for file, wanted in extents.items():
        for run in _runs(wanted):
            begin = run[0].start
            block = _read(device, file, begin, max(extent.end for extent in run))
            for extent in run:
                part = block[extent.start - begin : extent.end - begin]
                try:
                    items[extent.item].head.check_run(extent.first, extent.count, part)
                except ChunkCorruptError as error:
                    failed[extent.item] = error
                data[extent.item][extent.position] = extent.count, part
    return [
        failed.get(number) or StoredSections(item.head.info, item.indices, _in_order(data[number]))
        for number, item in enumerate(items)
    ]


def _in_order(runs: dict[int, tuple[int, memoryview]]) -> tuple[tuple[int, memoryview], ...]:
    return tuple(run for _, run in sorted(runs.items(), key=itemgetter(0)))


def _extents(number: int, item: Located) -> Iterator[_Extent]:
    offsets, lengths = item.head.section_offsets(), item.head.info.sections
    position = 0
    while position < len(item.indices):
        first, count = item.indices[position], 1
        most = len(item.indices) - position
        while count < most and item.indices[position + count] == first + count:
            count += 1
        last = first + count - 1
        begin, end = item.start + offsets[first], item.start + offsets[last] + lengths[last]
        yield _Extent(begin, end, number, position, first, count)
        position += count


def _runs(extents: list[_Extent]) -> Iterator[list[_Extent]]:
    """Extents to read together, by where they lie."""
    run: list[_Extent] = []
    for extent in sorted(extents, key=lambda extent: extent.start):
        is_near = run and extent.start - run[-1].end <= _GAP_BYTES
        if run and not (is_near and extent.end - run[0].start <= _MAX_READ_BYTES):
            yield run
            run = []
        run.append(extent)
    if run:
        yield run


def _read(device: Device, file: OpenFile, begin: int, end: int) -> memoryview:
    """Nothing if the device fails, so that the checksums tell."""
    try:
        return device.read(file.number, begin, end - begin)
    except OSError as error:
        logger.warning("reading stored KV failed: %s", error)
        return _NOTHING
