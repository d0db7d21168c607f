"""Records of a pack file: how a chunk, or a reference to one, is written down.

A record is a head and a payload. The head holds the key, what `ChunkInfo` holds, and for every
section its length and the CRC-32 of the payload up to its end, and ends with a CRC-32 of itself. A
CRC can be continued, so any run of sections is checked alone, in one call, from the CRC before it
to the one after it. All integers are little-endian:

    magic 4s  kind u8  bits u8  zero u16  level f64  key 32s  header bytes u32  sections u32
    payload bytes u64 | header | (length u32, crc u32) per section | crc u32 | payload

This module is the only one that writes and checks payload bytes.
"""

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate

from pliant.contexts.chunks import (
    MAX_HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_SECTIONS,
    ChunkInfo,
    StoredChunk,
)
from pliant.contexts.identity import KEY_BYTES, ChunkKey
from pliant.errors import ChunkCorruptError

_MAGIC = b"PLC1"
_FIXED = struct.Struct("<4sBBHd32sIIQ")
_SECTION = struct.Struct("<II")
_CRC = struct.Struct("<I")

_FIXED_BYTES = _FIXED.size


class Kind(IntEnum):
    CHUNK = 1
    REFERENCE = 2


@dataclass(frozen=True)
class Head:
    """The head of a record; `raw` is what is written. References have no sections."""

    kind: Kind
    info: ChunkInfo
    checksums: tuple[int, ...]
    raw: bytes

    @property
    def nbytes(self) -> int:
        """Of the whole record."""
        return len(self.raw) + self.info.nbytes

    def section_offsets(self) -> list[int]:
        """Where each section begins, from the record's begin."""
        return list(accumulate(self.info.sections[:-1], initial=len(self.raw)))

    def check_run(self, first: int, count: int, data: memoryview) -> memoryview:
        """`data` if it is `count` sections from `first` on, as they were written.

        Raises ChunkCorruptError.
        """
        last = first + count - 1
        before = self.checksums[first - 1] if first else 0
        if (
            len(data) == sum(self.info.sections[first : last + 1])
            and zlib.crc32(data, before) == self.checksums[last]
        ):
            return data
        raise ChunkCorruptError(
            f"chunk {self.info.key.hex()} is damaged in section {first}"
            + (f" or after, up to {last}" if count > 1 else "")
        )


def chunk_head(key: ChunkKey, chunk: StoredChunk) -> Head:
    """The head to write before `chunk.payload`; raises ValueError for a key that is none."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
    payload = memoryview(chunk.payload).cast("B")
    checksums, end, checksum = [], 0, 0
    for length in chunk.sections:
        checksum = zlib.crc32(payload[end : end + length], checksum)
        checksums.append(checksum)
        end += length
    info = ChunkInfo(key, chunk.bits, chunk.level, chunk.header, chunk.sections)
    return _encode(Kind.CHUNK, info, tuple(checksums))


def reference_head(key: ChunkKey) -> Head:
    """A whole record that says: this context uses the chunk, wherever it is."""
    return _encode(Kind.REFERENCE, ChunkInfo(key, 0, 0.0, b"", ()), ())


def head_bytes(fixed: bytes | memoryview) -> int:
    """Length of a head that begins with `fixed`; raises ChunkCorruptError if none does."""
    if len(fixed) < _FIXED_BYTES:
        raise ChunkCorruptError("a record ends too early")
    magic, kind, _, zero, *_, header, sections, payload = _FIXED.unpack_from(fixed)
    if magic != _MAGIC or kind not in Kind.__members__.values() or zero:
        raise ChunkCorruptError("there is no record")
    if header > MAX_HEADER_BYTES or sections > MAX_SECTIONS or payload > MAX_PAYLOAD_BYTES:
        raise ChunkCorruptError("a record has impossible sizes")
    return _FIXED_BYTES + int(header) + int(sections) * _SECTION.size + _CRC.size


def decode_head(raw: bytes) -> Head:
    """Inverse of `chunk_head` and `reference_head`; raises ChunkCorruptError."""
    if (
        len(raw) != head_bytes(raw)
        or zlib.crc32(raw[:-4]) != _CRC.unpack_from(raw, len(raw) - 4)[0]
    ):
        raise ChunkCorruptError("the head of a record is damaged")
    _, kind, bits, _, level, key, header, sections, payload = _FIXED.unpack_from(raw)
    table = _FIXED_BYTES + header
    numbers = struct.unpack_from(f"<{2 * sections}I", raw, table)
    lengths = numbers[0::2]
    if sum(lengths) != payload:
        raise ChunkCorruptError("the sections of a record do not add up")
    info = ChunkInfo(key, bits, level, raw[_FIXED_BYTES:table], lengths)
    return Head(Kind(kind), info, numbers[1::2], raw)


def _encode(kind: Kind, info: ChunkInfo, checksums: tuple[int, ...]) -> Head:
    fixed = _FIXED.pack(
        _MAGIC,
        kind,
        info.bits,
        0,
        info.level,
        info.key,
        len(info.header),
        len(info.sections),
        info.nbytes,
    )
    table = b"".join(map(_SECTION.pack, info.sections, checksums))
    body = fixed + info.header + table
    return Head(kind, info, checksums, body + _CRC.pack(zlib.crc32(body)))
