"""Operations against numpy, and what is refused before ggml would abort."""

import logging

import gguf
import numpy as np
import pytest

from pliant.errors import GgmlError, LibraryError, TensorError
from pliant.ggml import library
from pliant.ggml.backend import Backend
from pliant.ggml.context import Context
from pliant.ggml.log import forward_to_logging
from pliant.ggml.memory import Buffer, can_repack
from pliant.ggml.quantize import QUANTIZED_TYPES, WEIGHT_TYPES, dequantize, encode, quantize
from pliant.ggml.types import GgmlType
from support.graph_bench import Bench

RNG = np.random.default_rng(3)


@pytest.fixture
def bench():
    return Bench()


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def test_products_sums_and_norms_are_numpys(bench: Bench) -> None:
    w, x, b = floats(8, 32), floats(5, 32), floats(8)
    c = bench.context
    product = c.mul_mat(bench.put(w), bench.put(x))
    total = c.mul(c.add(product, bench.put(b)), bench.put(b))
    normed = bench.run(c.rms_norm(total, 1e-5))
    expected = (x @ w.T + b) * b
    expected /= np.sqrt((expected**2).mean(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(normed, expected, rtol=1e-4, atol=1e-5)


def test_swiglu_rows_views_and_joins_are_numpys(bench: Bench) -> None:
    gate, up = floats(4, 16), floats(4, 16)
    c = bench.context
    hidden = c.swiglu(bench.put(gate), bench.put(up))
    part = c.view(hidden, (8, 4), (hidden.strides[1],), 8 * 4)
    picked = c.get_rows(c.cont(part), bench.put(np.array([3, 0], dtype=np.int32)))
    joined = bench.run(c.concat(picked, picked, 1))
    expected = (gate / (1 + np.exp(-gate)) * up)[[3, 0], 8:]
    np.testing.assert_allclose(joined, np.concatenate([expected, expected]), rtol=1e-5)


def test_rows_are_written_where_asked(bench: Bench) -> None:
    table, values = floats(6, 8), floats(2, 8)
    target = bench.put(table)
    rows = bench.put(np.array([4, 1], dtype=np.int64))
    result = bench.run(bench.context.set_rows(target, bench.put(values), rows))
    table[[4, 1]] = values
    np.testing.assert_array_equal(result, table)


def test_attention_is_softmax_over_what_the_mask_shows(bench: Bench) -> None:
    q, k, v = floats(4, 3, 16), floats(2, 8, 16), floats(2, 8, 16)
    mask = np.where(np.arange(8) <= np.array([[5], [6], [7]]), 0, -np.inf).astype(np.float16)
    c = bench.context
    keys, values = (bench.put(t.astype(np.float16)) for t in (k, v))
    out = bench.run(c.flash_attention(bench.put(q), keys, values, bench.put(mask), 0.25))
    scores = np.einsum("hnd,hmd->hnm", q, np.repeat(k, 2, axis=0)) * 0.25 + mask
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = np.einsum("hnm,hmd->nhd", weights, np.repeat(v, 2, axis=0))
    np.testing.assert_allclose(out, expected, atol=5e-3)


@pytest.mark.parametrize("type_", [t for t in QUANTIZED_TYPES if can_repack(t, 32)])
def test_repacked_products_equal_plain_ones(type_: GgmlType) -> None:
    w, x = floats(32, 256), floats(6, 256)
    results = []
    for repacked in (False, True):
        bench = Bench()
        weight = bench.put(w, type_=type_, repacked=repacked)
        results.append(bench.run(bench.context.mul_mat(weight, bench.put(x))))
    np.testing.assert_allclose(results[0], results[1], atol=0.05 * np.abs(results[0]).max())


def test_q8_0_is_never_repacked_where_asking_would_crash() -> None:
    assert not can_repack(GgmlType.Q8_0, 32)
    assert not can_repack(GgmlType.Q4_0, 31)


@pytest.mark.parametrize(
    "make",
    [
        lambda c, a, b: c.mul_mat(a, b),
        lambda c, a, b: c.add(a, b),
        lambda c, a, b: c.mul(a, b),
        lambda c, a, b: c.swiglu(a, b),
        lambda c, a, b: c.concat(a, b, 1),
        lambda c, a, b: c.get_rows(a, b),
        lambda c, a, b: c.set_rows(a, b, b),
        lambda c, a, b: c.reshape(a, 7),
        lambda c, a, b: c.view(a, (32,), (), 1000),
        lambda c, a, b: c.view(a, (32, 9)),
        lambda c, a, b: c.view(a, (32,), (), -4),
        lambda c, a, b: c.permute(a, 0, 1, 1, 2),
        lambda c, a, b: c.rms_norm(a, -1.0),
        lambda c, a, b: c.new_tensor(GgmlType.Q8_0, 33),
        lambda c, a, b: c.new_tensor(GgmlType.F32, 0),
        lambda c, a, b: c.new_tensor(GgmlType.F32, 1, 1, 1, 1, 1),
        lambda c, a, b: c.flash_attention(a, b, b, a, 1.0),
        lambda c, a, b: c.rope(a, b, None, dims=2, base=1e4, scale=1.0, original_context=8),
        lambda c, a, b: a.numpy(),
    ],
)
def test_shapes_ggml_would_abort_on_raise(make) -> None:
    with Context(max_tensors=8) as c:
        a, b = c.new_tensor(GgmlType.F32, 32, 8), c.new_tensor(GgmlType.F32, 24, 5)
        with pytest.raises(TensorError):
            make(c, a, b)


def test_memory_that_the_system_does_not_have_is_an_error() -> None:
    for size in (1 << 60, 1 << 80):
        with pytest.raises(GgmlError, match="memory"):
            Buffer.zeroed(size)


def test_a_tensor_must_fit_its_buffer() -> None:
    with Context(max_tensors=2) as c:
        tensor = c.new_tensor(GgmlType.F32, 64)
        buffer = Buffer.allocate(128)
        with pytest.raises(TensorError, match="leaves a 128 byte buffer"):
            buffer.place(tensor, 0)


def test_a_product_of_plain_columns_needs_f32_activations() -> None:
    with Context(max_tensors=2) as c, pytest.raises(TensorError, match="F32"):
        c.mul_mat(c.new_tensor(GgmlType.F32, 8, 8), c.new_tensor(GgmlType.F16, 8, 8))


def test_quantize_refuses_other_types_and_partial_blocks() -> None:
    with pytest.raises(TensorError):
        quantize(floats(2, 32), GgmlType.F16)
    with pytest.raises(TensorError):
        quantize(floats(2, 48), GgmlType.Q8_0)


def test_threads_must_be_positive() -> None:
    backend = Backend(threads=1)
    with pytest.raises(GgmlError):
        backend.threads = 0
    backend.close()


def test_ggml_log_lines_reach_logging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="pliant.ggml"):
        forward_to_logging(3, b"something odd\n", None)
        forward_to_logging(2, b"\n", None)
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("WARNING", "something odd")]


@pytest.mark.parametrize("version", ["0.3.35", "0.4.0", "0.2.90"])
def test_another_version_of_the_library_is_refused(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    library.load.cache_clear()
    monkeypatch.setattr(library.metadata, "version", lambda _name: version)
    with pytest.raises(LibraryError, match=f"{version} is installed, but pliant needs"):
        library.load()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    library.load.cache_clear()
    monkeypatch.setattr(library, "library_folder", lambda: tmp_path)
    with pytest.raises(LibraryError, match="libggml-base is not in"):
        library.load()


def test_a_full_context_raises_before_ggml_aborts() -> None:
    with Context(max_tensors=2) as c:
        a = c.new_tensor(GgmlType.F32, 8)
        c.add(a, a)
        with pytest.raises(TensorError, match="full"):
            c.add(a, a)


@pytest.mark.parametrize("type_", sorted(WEIGHT_TYPES))
def test_decoding_equals_the_gguf_package(type_: GgmlType) -> None:
    values = np.random.default_rng(1).standard_normal((3, 512), dtype=np.float32)
    encoded = encode(values, type_)
    found = dequantize(encoded, type_)
    try:
        expected = gguf.dequantize(encoded, gguf.GGMLQuantizationType(int(type_)))
    except (NotImplementedError, ValueError):
        expected = values  # then at least it is no noise
    error = np.abs(found - expected.reshape(found.shape)).max()
    assert error <= (1e-5 if expected is not values else 4)


def test_bytes_that_hold_no_weights_are_refused() -> None:
    for nbytes, type_ in ((33, GgmlType.Q8_0), (34, GgmlType.I32), (36, GgmlType.Q8_1)):
        with pytest.raises(TensorError, match="cannot read rows"):
            dequantize(np.zeros((1, nbytes), np.uint8), type_)


def test_out_prod_checks_its_operands() -> None:
    with Context(max_tensors=8) as c:
        a, b = c.new_tensor(GgmlType.F32, 5, 3, 2), c.new_tensor(GgmlType.F32, 4, 3, 2)
        assert c.out_prod(a, b).shape == (5, 4, 2, 1)
        for wrong in (
            c.new_tensor(GgmlType.F32, 4, 2, 2),
            c.new_tensor(GgmlType.F32, 4, 3),
            c.new_tensor(GgmlType.F16, 4, 3, 2),
        ):
            with pytest.raises(TensorError, match="no outer product"):
                c.out_prod(a, wrong)
