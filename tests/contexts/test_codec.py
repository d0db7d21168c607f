"""Chunks to bytes and back: what is lost, what stands alone, what is refused."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.bundle import open_bundle
from pliant.contexts.chunk import BITS, LOSSLESS, EncodedChunk
from pliant.contexts.codec import ChunkCodec, LayerPart
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.errors import ChunkError, RequestError
from pliant.ggml.quantize import dequantize
from support.tiny_gguf import make_tiny_gguf

LAYERS, HEADS, CONTEXT = 3, 4, 512
# Relative RMS error of keys and values.
MOST_ERROR = {16: (0.0, 0.0), 8: (0.01, 0.01), 4: (0.1, 0.1), 2: (0.32, 0.32)}
KINDS = [(64, "f16"), (128, "f16"), (32, "q8_0"), (80, "f16"), (64, "q8_0")]


class Case:
    """An engine whose slot 0 holds numbers as caches do: channels of many sizes and centres."""

    def __init__(self, path: Path, kv_type: str) -> None:
        options = EngineOptions(threads=1, slots=2, context_length=CONTEXT, kv_type=kv_type)
        self.engine = Engine(open_bundle(path), options)
        self.codec = ChunkCodec(self.engine)
        self.head_dim = self.engine.architecture.head_dim
        random = np.random.default_rng(0)
        shape = (2 * LAYERS, CONTEXT, HEADS, self.head_dim)
        values = random.standard_normal(shape, dtype=np.float32)
        channels = random.lognormal(0, 1, (2 * LAYERS, 1, HEADS, self.head_dim))
        values[0::2] = values[0::2] * channels[0::2] + 3 * channels[1::2]
        self.write(values)

    def write(self, values: np.ndarray) -> None:
        cells = values.astype(np.float16).reshape(2 * LAYERS, CONTEXT, -1)
        kv = self.engine.kv
        if self.engine.options.kv_type == "f16":
            kv.rows[:, :CONTEXT] = cells.view(np.uint8)
        else:
            blocks = cells.astype(np.float32).reshape(-1, 32)
            scales = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype(np.float16)
            numbers = np.rint(blocks / scales.astype(np.float32)).astype(np.int8)
            stored = np.concatenate([scales.view(np.uint8), numbers.view(np.uint8)], axis=1)
            kv.rows[:, :CONTEXT] = stored.reshape(2 * LAYERS, CONTEXT, -1)

    def read(self, slot: int) -> np.ndarray:
        """float32 [keys and values of the layers, positions, heads, head_dim]"""
        kv = self.engine.kv
        rows = np.ascontiguousarray(kv.rows[:, kv.first_row(slot) :][:, :CONTEXT])
        if self.engine.options.kv_type == "f16":
            values = rows.view(np.float16).astype(np.float32)
        else:
            values = dequantize(rows.reshape(-1, kv.row_bytes), kv.type)
        return values.reshape(2 * LAYERS, CONTEXT, HEADS, self.head_dim)

    def blank(self, slot: int = 1) -> None:
        kv = self.engine.kv
        kv.rows[:, kv.first_row(slot) :][:, :CONTEXT] = 0

    def close(self) -> None:
        self.codec.close()
        self.engine.close()


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[1]}-{kind[0]}")
def case(request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[Case]:
    head_dim, kv_type = request.param
    path = make_tiny_gguf(
        tmp_path_factory.mktemp("codec") / "m.gguf",
        layers=LAYERS,
        hidden=160,
        heads=HEADS,
        kv_heads=HEADS,
        head_dim=head_dim,
        context=CONTEXT,
    )
    case = Case(path, kv_type)
    yield case
    case.close()


kv_heads = st.tuples(*[st.integers(0, HEADS)] * LAYERS)
tokens = st.sampled_from([16, 32, 64])


@settings(max_examples=15, deadline=None)
@given(heads=kv_heads, data=st.data())
def test_heads_of_one_chunk_may_differ_in_bits(case: Case, heads: tuple[int, ...], data) -> None:
    """Each head as it is in a chunk whose heads all have its bits."""
    counts = st.lists(st.sampled_from([8, 4, 2]), min_size=sum(heads), max_size=sum(heads))
    bits = data.draw(counts)
    rows = case.engine.kv.rows[:, case.engine.kv.first_row(1) :]
    rows = rows.reshape(2 * LAYERS, CONTEXT, HEADS, -1)
    alike = {}
    for number in (8, 4, 2):
        case.blank()
        chunk = case.codec.encode(0, 64, 32, heads, number)
        case.codec.decode(1, [(64, chunk)], range(LAYERS), heads)
        alike[number] = rows.copy()
    mixed = case.codec.encode(0, 64, 32, heads, bits)
    case.blank()
    case.codec.decode(1, [(64, mixed)], range(LAYERS), heads)
    remaining = iter(bits)
    for layer, count in enumerate(heads):
        for head in range(count):
            expected = alike[next(remaining)][2 * layer : 2 * layer + 2, :, head]
            assert np.array_equal(rows[2 * layer : 2 * layer + 2, :, head], expected)


@settings(max_examples=15, deadline=None)
@given(heads=kv_heads, num_tokens=tokens, data=st.data())
def test_roundtrip(case: Case, heads: tuple[int, ...], num_tokens: int, data) -> None:
    start = data.draw(st.integers(0, CONTEXT - num_tokens))
    bits = data.draw(st.sampled_from(BITS))
    chunk = case.codec.encode(0, start, num_tokens, heads, bits)
    case.blank()
    case.codec.decode(1, [(start, chunk)], range(LAYERS), heads)
    before, after = case.read(0), case.read(1)
    for layer, count in enumerate(heads):
        for kind in (0, 1):
            expected = before[2 * layer + kind, start : start + num_tokens, :count]
            found = after[2 * layer + kind, start : start + num_tokens, :count].copy()
            after[2 * layer + kind, start : start + num_tokens, :count] = 0
            if kind == 0:  # keys: by channel, whatever its size and centre
                spread = expected.std(axis=0).mean(axis=-1, keepdims=True)
                expected, found = expected / (spread + 1e-9), found / (spread + 1e-9)
            scale = np.sqrt(np.mean((expected - expected.mean(axis=0)) ** 2)) if count else 0
            error = np.sqrt(np.mean((expected - found) ** 2)) if count else 0
            assert error <= MOST_ERROR[bits][kind] * scale
    assert not after.any()


def test_outlier_channels_do_not_drown_the_others(case: Case) -> None:
    """Keys' errors are small in every channel by itself, the quiet ones included."""
    heads = (HEADS,) * LAYERS
    chunk = case.codec.encode(0, 0, 64, heads, 4)
    case.blank()
    case.codec.decode(1, [(0, chunk)], range(LAYERS), heads)
    keys, found = case.read(0)[0::2, :64], case.read(1)[0::2, :64]
    error = np.sqrt(((keys - found) ** 2).mean(axis=1)) / keys.std(axis=1)
    limit = 0.2 if case.engine.options.kv_type == "f16" else 0.5
    assert np.median(error) < 0.1
    assert np.quantile(error, 0.98) < limit


@settings(max_examples=10, deadline=None)
@given(heads=kv_heads, num_tokens=tokens, bits=st.sampled_from(BITS), data=st.data())
def test_sections_stand_alone(case: Case, heads, num_tokens: int, bits: int, data) -> None:
    """A layer with some of its heads decodes to the same bytes as that part of the whole."""
    chunk = case.codec.encode(0, 64, num_tokens, heads, bits)
    layer = data.draw(st.integers(0, LAYERS - 1))
    count = data.draw(st.integers(0, heads[layer]))
    rows = case.engine.kv.rows[:, case.engine.kv.first_row(1) :]
    case.blank()
    case.codec.decode(1, [(128, chunk)], range(LAYERS), heads)
    whole = rows.copy()
    case.blank()
    part = LayerPart(128, chunk.format, chunk.layer(layer, count))
    case.codec.decode_layers(1, {layer: [part]}, [count] * LAYERS)
    width = count * case.engine.kv.head_bytes
    expected = np.zeros_like(whole)
    expected[2 * layer : 2 * layer + 2, :, :width] = whole[2 * layer : 2 * layer + 2, :, :width]
    assert np.array_equal(rows, expected)


def test_many_chunks_at_once_are_the_same_as_one_by_one(case: Case) -> None:
    heads = (HEADS, 2, HEADS)
    bits = (8, 4, 4, 2, 16, 4, 4, 4, 2, 8, 8, 4, 16, 4, 2, 2)
    chunks = [
        (32 * i, case.codec.encode(0, 32 * i, 32, heads, number)) for i, number in enumerate(bits)
    ]
    rows = case.engine.kv.rows[:, case.engine.kv.first_row(1) :]
    case.blank()
    for chunk in chunks:
        case.codec.decode(1, [chunk], range(LAYERS), heads)
    expected = rows.copy()
    case.blank()
    case.codec.decode(1, chunks[::-1], range(LAYERS), heads)
    assert np.array_equal(rows, expected)


def test_the_largest_batches_fit(case: Case) -> None:
    """Many small chunks, and one as large as there is room for."""
    heads = (HEADS,) * LAYERS
    for num_tokens in (16, CONTEXT):
        for bits in BITS:
            starts = range(0, CONTEXT, num_tokens)
            chunks = [(s, case.codec.encode(0, s, num_tokens, heads, bits)) for s in starts]
            case.blank()
            case.codec.decode(1, chunks * 3, range(LAYERS), heads)
            error = np.abs(case.read(0) - case.read(1))[1::2].mean()
            assert error < 0.3
    assert case.codec.nbytes < 8 << 20


def test_a_smaller_level_takes_its_heads_and_layers_only(case: Case) -> None:
    chunk = case.codec.encode(0, 0, 64, (HEADS,) * LAYERS, 4)
    case.blank()
    case.codec.decode(1, [(0, chunk)], range(1, LAYERS), (1, 0, 2))
    found = case.read(1)
    assert not found[:4].any()
    assert found[4:, :64, :2].any(axis=(1, 2, 3)).all()
    assert not found[4:, :, 2:].any()


@pytest.mark.parametrize("bits", BITS)
def test_sizes_are_those_of_the_format(case: Case, bits: int) -> None:
    chunk = case.codec.encode(0, 0, 64, (HEADS, 1, 0), bits)
    assert {section.nbytes for section in chunk.format.sections} == {len(chunk.payload) // 5}
    per_value = 8 * len(chunk.payload) / (2 * (HEADS + 1) * 64 * case.head_dim)
    assert chunk.format.bits_per_value == pytest.approx(per_value)
    expected = {16: 16 if case.engine.options.kv_type == "f16" else 8.5, 8: 8.625, 4: 4.625}
    assert per_value == pytest.approx(expected.get(bits, 2.75), abs=1e-3)


def refuse(case: Case, part: LayerPart, kv_heads: int, slot: int = 1, layer: int = 0) -> None:
    case.blank()
    with pytest.raises((ChunkError, RequestError)):
        case.codec.decode_layers(slot, {layer: [part]}, [kv_heads] * LAYERS)
    assert not case.read(1).any()


@pytest.mark.parametrize("bits", BITS)
def test_refuses_bad_payloads_before_anything_is_written(case: Case, bits: int) -> None:
    chunk = case.codec.encode(0, 0, 64, (2,) * LAYERS, bits)
    good = LayerPart(0, chunk.format, chunk.layer(0, 2))
    for sections in (b"", good.sections[:-1], bytes(good.sections) + b"x", chunk.payload):
        refuse(case, replace(good, sections=sections), 2)
        with pytest.raises(ChunkError, match="bytes"):
            EncodedChunk(chunk.format, bytes(sections) + b"y" * (sections == chunk.payload))
    refuse(case, good, 1)
    refuse(case, good, 3)
    refuse(case, good, -1)
    refuse(case, good, 2, slot=2)
    refuse(case, good, 2, layer=LAYERS)
    refuse(case, good, 2, layer=-1)
    for start in (-1, CONTEXT - 63):
        refuse(case, replace(good, start=start), 2)
    more = {"kv_heads": (2,) * (LAYERS + 1), "bits": (bits,) * 2 * (LAYERS + 1)}
    for foreign in ({"head_dim": 256}, more, {"num_tokens": 32}):
        refuse(case, replace(good, format=replace(chunk.format, **foreign)), 2)
    other = {"f16": "q8_0", "q8_0": "f16"}[case.engine.options.kv_type]
    with pytest.raises(ChunkError):
        part = replace(good, format=replace(chunk.format, kv_type=other))
        case.codec.decode_layers(1, {0: [part]}, [2] * LAYERS)


def test_refuses_what_cannot_be_encoded(case: Case) -> None:
    heads = (1,) * LAYERS
    for bits in (0, 3, 32, True):
        with pytest.raises(ChunkError, match="bits"):
            case.codec.encode(0, 0, 64, heads, bits)
    with pytest.raises(ChunkError, match="blocks"):
        case.codec.encode(0, 0, 9, heads, 4)
    with pytest.raises(ChunkError, match="1024"):
        case.codec.format(heads, 2048, 4)
    with pytest.raises(ChunkError, match="layers"):
        case.codec.encode(0, 0, 64, (1,), 4)
    with pytest.raises(ChunkError, match="KV heads"):
        case.codec.encode(0, 0, 64, (HEADS + 1,) * LAYERS, 4)
    for slot, start in ((-1, 0), (2, 0), (0, -1), (0, CONTEXT)):
        with pytest.raises(RequestError):
            case.codec.encode(slot, start, 64, heads, LOSSLESS)


def test_numbers_that_are_not_finite_need_16_bits(case: Case) -> None:
    if case.engine.options.kv_type != "f16":
        pytest.skip("blocks of 8 bits hold finite numbers")
    kept = case.engine.kv.rows[1, 5].copy()
    case.engine.kv.rows[1, 5].view(np.float16)[3] = np.inf
    with pytest.raises(ChunkError, match="finite"):
        case.codec.encode(0, 0, 64, (HEADS,) * LAYERS, 8)
    chunk = case.codec.encode(0, 0, 64, (HEADS,) * LAYERS, LOSSLESS)
    case.codec.decode(1, [(0, chunk)], range(LAYERS), (HEADS,) * LAYERS)
    rows = case.engine.kv.rows
    assert np.array_equal(rows[:, :64], rows[:, CONTEXT : CONTEXT + 64])
    case.engine.kv.rows[1, 5] = kept
