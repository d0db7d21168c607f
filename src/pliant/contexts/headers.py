"""A chunk's format as the few bytes that the store keeps beside it."""

import struct

from pliant.contexts.chunk import ChunkFormat, EncodedChunk
from pliant.contexts.chunks import ChunkInfo, StoredChunk
from pliant.contexts.codec import ChunkCodec
from pliant.errors import PliantError

_VERSION = 1


def to_stored(chunk: EncodedChunk, level: float) -> StoredChunk:
    """The chunk as the store takes it; `level` is the lowest that computed a token of it."""
    format_ = chunk.format
    heads = format_.kv_heads
    header = struct.pack(f"<BHH{len(heads)}H", _VERSION, format_.num_tokens, len(heads), *heads)
    sections = (format_.section_bytes,) * format_.num_sections
    return StoredChunk(chunk.payload, sections, format_.bits, level, header)


def read_header(info: ChunkInfo, codec: ChunkCodec) -> ChunkFormat | None:
    """The format of a stored chunk; None if it is not one of this engine's."""
    try:
        version, num_tokens, layers = struct.unpack_from("<BHH", info.header)
        heads = struct.unpack_from(f"<{layers}H", info.header, 5)
        format_ = codec.format(heads, num_tokens, info.bits)
    except (struct.error, PliantError):
        return None
    is_ours = version == _VERSION and len(info.sections) == format_.num_sections
    return format_ if is_ours and info.nbytes == format_.nbytes else None
