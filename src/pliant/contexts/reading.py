"""Reads of several sections at once: neighbours in a pack are one read of the device."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pliant.contexts.chunks import StoredSections
from pliant.contexts.packs import OpenFile
from pliant.contexts.records import Head
from pliant.contexts.storage import Device
from pliant.errors import ChunkCorruptError, ChunkMissingError

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


@dataclass(frozen=True)
class _Extent:
    """Bytes `start`..`end` of a pack: sections of item `item` that lie side by side.

    `cuts` are where its sections begin, from `start` on, and where the last one ends; the first
    one is the item's number `position`.
    """

    start: int
    end: int
    item: int
    position: int
    cuts: tuple[int, ...]


def read_located(device: Device, items: Sequence[Located]) -> list[Outcome]:
    """One outcome per item, in order. What the device cannot read counts as damaged."""
    extents: dict[OpenFile, list[_Extent]] = defaultdict(list)
    for number, item in enumerate(items):
        extents[item.file] += _extents(number, item)
    data: list[list[memoryview]] = [[_NOTHING] * len(item.indices) for item in items]
    failed: dict[int, str] = {}
    for file, wanted in extents.items():
        for run in _runs(wanted):
            begin = run[0].start
            try:
                block = device.read(file.number, begin, max(e.end for e in run) - begin)
            except OSError as error:
                failed.update((extent.item, str(error)) for extent in run)
                continue
            for extent in run:
                _cut(block[extent.start - begin : extent.end - begin], extent, data[extent.item])
    return [
        ChunkCorruptError(f"chunk {item.head.info.key.hex()} cannot be read: {failed[number]}")
        if number in failed
        else _check(item, sections)
        for number, (item, sections) in enumerate(zip(items, data, strict=True))
    ]


def _extents(number: int, item: Located) -> Iterator[_Extent]:
    offsets, lengths = item.head.section_offsets(), item.head.info.sections
    position = 0
    while position < len(item.indices):
        first = item.indices[position]
        count = 1
        while item.indices[position + count : position + count + 1] == (first + count,):
            count += 1
        last = first + count - 1
        begin, end = offsets[first], offsets[last] + lengths[last]
        cuts = (*(offset - begin for offset in offsets[first : last + 1]), end - begin)
        yield _Extent(item.start + begin, item.start + end, number, position, cuts)
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


def _cut(block: memoryview, extent: _Extent, sections: list[memoryview]) -> None:
    for position, (start, end) in enumerate(pairwise(extent.cuts), extent.position):
        sections[position] = block[start:end]


def _check(item: Located, sections: list[memoryview]) -> Outcome:
    try:
        checked = tuple(map(item.head.check_section, item.indices, sections))
    except ChunkCorruptError as error:
        return error
    return StoredSections(item.head.info, item.indices, checked)
