"""A chunk's format as the few bytes that the store keeps beside it."""

import struct

from pliant.contexts.chunk import ChunkFormat, EncodedChunk
from pliant.contexts.chunks import ChunkInfo, StoredChunk
from pliant.contexts.codec import ChunkCodec
from pliant.errors import PliantError

_VERSION = 2


def to_stored(chunk: EncodedChunk, level: float) -> StoredChunk:
    """The chunk as the store takes it; `level` is the lowest that computed a token of it."""
    format_ = chunk.format
    heads, bits = format_.kv_heads, format_.bits
    header = struct.pack(f"<BHH{len(heads)}H", _VERSION, format_.num_tokens, len(heads), *heads)
    sections = tuple(section.nbytes for section in format_.sections)
    return StoredChunk(chunk.payload, sections, format_.mean_bits, level, header + bytes(bits))


def read_header(info: ChunkInfo, codec: ChunkCodec) -> ChunkFormat | None:
    """The format of a stored chunk; None if it is not one of this engine's."""
    try:
        version, num_tokens, layers = struct.unpack_from("<BHH", info.header)
        heads = struct.unpack_from(f"<{layers}H", info.header, 5)
        if version != _VERSION:
            return None
        format_ = codec.format(heads, num_tokens, info.header[5 + 2 * layers :])
    except (struct.error, PliantError):
        return None
    sizes = tuple(section.nbytes for section in format_.sections)
    return format_ if info.sections == sizes else None
