import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.contexts.chunks import StoredChunk
from pliant.contexts.records import (
    Kind,
    chunk_head,
    decode_head,
    head_bytes,
    reference_head,
)
from pliant.errors import ChunkCorruptError
from support.stored_chunks import make_chunk, make_key

KEY = make_key(1)

chunks = st.builds(
    lambda seed, sections, bits, level, header: StoredChunk(
        random.Random(seed).randbytes(sum(sections)), tuple(sections), bits, level, header
    ),
    seed=st.integers(0, 1000),
    sections=st.lists(st.integers(1, 100), min_size=1, max_size=20),
    bits=st.integers(1, 32),
    level=st.floats(0.1, 1.0),
    header=st.binary(max_size=40),
)


@given(chunks)
def test_a_head_comes_back_as_it_was_written(chunk: StoredChunk) -> None:
    head = chunk_head(KEY, chunk)
    assert head_bytes(head.raw) == len(head.raw)
    again = decode_head(head.raw)
    assert again == head
    info = again.info
    assert (info.key, info.bits, info.level) == (KEY, chunk.bits, chunk.level)
    assert (info.header, info.sections) == (chunk.header, chunk.sections)
    record = head.raw + bytes(chunk.payload)
    assert len(record) == head.nbytes
    parts = zip(head.section_offsets(), info.sections, strict=True)
    cut = [head.check_run(i, 1, memoryview(record)[s : s + n]) for i, (s, n) in enumerate(parts)]
    assert b"".join(cut) == chunk.payload


@given(chunks, st.integers(min_value=0), st.integers(0, 7))
def test_any_flipped_bit_of_a_record_is_noticed(chunk: StoredChunk, where: int, bit: int) -> None:
    record = bytearray(chunk_head(KEY, chunk).raw + bytes(chunk.payload))
    record[where % len(record)] ^= 1 << bit
    with pytest.raises(ChunkCorruptError):
        head = decode_head(bytes(record[: head_bytes(record)]))
        offsets = head.section_offsets()
        for index, (start, size) in enumerate(zip(offsets, head.info.sections, strict=True)):
            head.check_run(index, 1, memoryview(record)[start : start + size])


@given(chunks, st.data())
def test_any_run_of_sections_is_checked_alone(chunk: StoredChunk, data: st.DataObject) -> None:
    head = chunk_head(KEY, chunk)
    first = data.draw(st.integers(0, len(chunk.sections) - 1))
    count = data.draw(st.integers(1, len(chunk.sections) - first))
    start = sum(chunk.sections[:first])
    run = bytearray(chunk.payload[start : start + sum(chunk.sections[first : first + count])])
    head.check_run(first, count, memoryview(run))
    run[data.draw(st.integers(0, len(run) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ChunkCorruptError):
        head.check_run(first, count, memoryview(run))


@given(st.binary(max_size=200))
def test_other_bytes_are_no_head(data: bytes) -> None:
    with pytest.raises(ChunkCorruptError):
        decode_head(data)


def test_a_short_section_is_damaged() -> None:
    chunk = make_chunk(1)
    with pytest.raises(ChunkCorruptError, match="section 2"):
        chunk_head(KEY, chunk).check_run(2, 1, memoryview(b"short"))


def test_a_reference_is_a_record_without_sections() -> None:
    head = decode_head(reference_head(KEY).raw)
    assert (head.kind, head.info.key, head.nbytes) == (Kind.REFERENCE, KEY, len(head.raw))


@pytest.mark.parametrize(
    "fields",
    [
        {"sections": (100,)},
        {"sections": (451, 0)},
        {"sections": ()},
        {"bits": 0},
        {"bits": 33},
        {"header": b"x" * (1 << 17)},
    ],
)
def test_malformed_chunks_are_refused(fields: dict[str, object]) -> None:
    valid = {"payload": b"x" * 451, "sections": (451,), "bits": 4, "level": 1.0}
    StoredChunk(**valid)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        StoredChunk(**valid | fields)  # type: ignore[arg-type]


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        chunk_head(b"short", make_chunk(1))
