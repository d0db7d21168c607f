"""Adapter files: what is written is read back, by llama.cpp's rules; what is wrong is explained."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pliant.bundle import Adapter, Architecture, GgufFile, LayerPlan, Plan, write_adapter
from pliant.bundle.adapters import adapter_file_name, encode_q8_0
from pliant.errors import BundleError, BundleNotFoundError, CorruptFileError
from pliant.ggml.quantize import quantize
from pliant.ggml.types import GgmlType
from support.adapters import make_adapter, random_factors
from support.mutations import mutations
from support.tiny_gguf import make_tiny_gguf

PLAN = Plan((LayerPlan(1, 2, 64), LayerPlan(2, 1, 32)))


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> Architecture:
    path = make_tiny_gguf(tmp_path_factory.mktemp("model") / "m.gguf")
    return Architecture.from_gguf(GgufFile.open(path))


@pytest.mark.parametrize("quantization", ["F16", "Q8_0"])
@pytest.mark.parametrize("rank", [1, 8, 32])
def test_reads_back_what_was_written(
    tmp_path: Path, architecture: Architecture, quantization: str, rank: int
) -> None:
    adapter = make_adapter(tmp_path / "a.gguf", architecture, PLAN, quantization, rank=rank)
    assert (adapter.architecture, adapter.alpha, adapter.scale) == ("llama", 2.0 * rank, 2.0)
    assert adapter.rank == rank
    adapter.check_fits(architecture, PLAN)
    factors = random_factors(architecture, PLAN, rank=rank)
    assert set(adapter.names) == set(factors)
    assert adapter.parameters == sum(a.size + b.size for a, b in factors.values())
    for name, pair in factors.items():
        for found, expected in zip(adapter.factors(name), pair, strict=True):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, atol=np.abs(expected).max() / 200)


def test_the_gguf_package_reads_the_same(tmp_path: Path, architecture: Architecture) -> None:
    adapter = make_adapter(tmp_path / "a.gguf", architecture, PLAN, "Q8_0")
    reader = gguf.GGUFReader(adapter.gguf.path)
    values = {name: field.contents() for name, field in reader.fields.items()}
    assert values["general.type"] == "adapter"
    assert values["adapter.type"] == "lora"
    assert values["adapter.lora.alpha"] == 16.0
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.0.attn_q.weight.lora_a"] == "Q8_0"
    assert types["blk.0.attn_q.weight.lora_b"] == "F16"  # rows of 8 are not whole blocks
    for tensor in reader.tensors:
        name, suffix = tensor.name[:-7], tensor.name[-1:]
        ours = adapter.factors(name)["ab".index(suffix)]
        theirs = gguf.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(ours, theirs.reshape(ours.shape))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e4]))
def test_q8_0_is_what_ggml_encodes(seed: int, size: float) -> None:
    values = np.random.default_rng(seed).standard_normal((3, 64), dtype=np.float32)
    values = np.round(values * 4) / 4 * np.float32(size)  # many halves to round
    expected = quantize(values, GgmlType.Q8_0)
    assert encode_q8_0(values).tobytes() == expected.tobytes()


def test_file_names() -> None:
    assert [adapter_file_name(ratio) for ratio in (0.2, 0.55)] == [
        "adapter-0.2.gguf",
        "adapter-0.55.gguf",
    ]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan((LayerPlan(1, 2, 64), LayerPlan(2, 1, 64))), "adapt 32 x 64 weights"),
        (Plan((LayerPlan(1, 2, 64), LayerPlan(1, 2, 32))), "its level has"),
        (Plan((LayerPlan(1, 2, 64), LayerPlan(0, 0, 32))), "does not run"),
        (Plan((LayerPlan(1, 2, 64),)), "does not run"),
        (Plan((*PLAN.layers, LayerPlan(1, 2, 32))), "has no factors for 'blk.2.attn_q.weight'"),
    ],
)
def test_an_adapter_of_another_plan_is_refused(
    tmp_path: Path, architecture: Architecture, plan: Plan, message: str
) -> None:
    adapter = make_adapter(tmp_path / "a.gguf", architecture, PLAN)
    with pytest.raises(CorruptFileError, match=message):
        adapter.check_fits(architecture, plan)


def test_an_adapter_of_another_architecture_is_refused(
    tmp_path: Path, architecture: Architecture
) -> None:
    factors = random_factors(architecture, PLAN)
    adapter = write_adapter(tmp_path / "a.gguf", "qwen2", factors, 16.0, "F16")
    with pytest.raises(CorruptFileError, match="is for 'qwen2', the model is 'llama'"):
        adapter.check_fits(architecture, PLAN)


# Marks a matrix of 8 rows of 32 that is stored as Q8_0.
Q8_0_ROWS = np.zeros((8, 34), dtype=np.uint8)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("factors", "options", "message"),
    [
        ({}, {}, "at least one module"),
        ({"m": (ones(8, 32), ones(32, 4))}, {}, r"A \(8, 32\), B \(32, 4\)"),
        ({"m": (ones(8), ones(32, 8))}, {}, "are not"),
        ({"m": (ones(0, 32), ones(32, 0))}, {}, "are not"),
        ({"m": (ones(8, 32) * 1e6, ones(32, 8))}, {}, "not finite"),
        ({"m": (ones(8, 32), ones(32, 8) * np.nan)}, {}, "not finite"),
        ({"m": (ones(8, 4), ones(4, 8)), "n": (ones(4, 4), ones(4, 4))}, {}, "one rank"),
        ({"m": (ones(2048, 4), ones(4, 2048))}, {}, "at most 1024"),
        ({"m": (ones(8, 4), ones(4, 8))}, {"alpha": 0.0}, "alpha is 0.0"),
        ({"m": (ones(8, 4), ones(4, 8))}, {"alpha": float("nan")}, "alpha is nan"),
        ({"m": (ones(8, 4), ones(4, 8))}, {"quantization": "Q4_0"}, "F16 or Q8_0"),
    ],
)
def test_bad_factors_are_not_written(
    tmp_path: Path, factors: dict, options: dict, message: str
) -> None:
    arguments = {"alpha": 16.0, "quantization": "F16"} | options
    with pytest.raises(BundleError, match=message):
        write_adapter(tmp_path / "a.gguf", "llama", factors, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist_is_explained(tmp_path: Path) -> None:
    factors = {"m": (ones(8, 4), ones(4, 8))}
    with pytest.raises(BundleError, match="cannot write"):
        write_adapter(tmp_path / "no" / "a.gguf", "llama", factors, 16.0, "F16")
    with pytest.raises(BundleNotFoundError):
        Adapter.open(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"general.architecture": None}, {}, "general.architecture is missing"),
        ({"general.type": "model"}, {}, "general.type is 'model', not 'adapter'"),
        ({"adapter.type": "ia3"}, {}, "adapter.type is 'ia3', not 'lora'"),
        ({"adapter.lora.alpha": None}, {}, "adapter.lora.alpha is None"),
        ({"adapter.lora.alpha": -1.0}, {}, "not a positive number"),
        ({"adapter.lora.alpha": 0.0}, {}, "not a positive number"),
        ({}, {"m.lora_a": None}, "'m.lora_a' is missing"),
        ({}, {"m.lora_b": None}, "'m.lora_b' is missing"),
        ({}, {"m.lora_a": None, "m.lora_b": None}, "holds no factors"),
        ({}, {"m.weight": ones(8, 4)}, "'m.weight' is not a factor"),
        ({}, {"m.lora_b": ones(4, 7)}, "the ranks 8 and 7"),
        ({}, {"n.lora_a": ones(4, 4), "n.lora_b": ones(4, 4)}, "several ranks"),
        ({}, {"n.lora_a": Q8_0_ROWS, "n.lora_b": ones(4, 8)}, "another type than the other A"),
        ({}, {"m.lora_a": ones(8).astype(np.float16)}, "not a matrix"),
        ({}, {"m.lora_a": np.ones((8, 4), dtype=np.float64)}, "is F64"),
    ],
)
def test_what_is_no_adapter_is_refused(
    tmp_path: Path, metadata: dict, tensors: dict, message: str
) -> None:
    path = tmp_path / "a.gguf"
    write_raw(path, metadata, tensors)
    with pytest.raises(CorruptFileError, match=message):
        Adapter.open(path)


def write_raw(path: Path, metadata: dict, tensors: dict) -> None:
    """An adapter of one module `m`, written by the gguf package, with some things replaced."""
    values = {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
    } | metadata
    arrays = {"m.lora_a": ones(8, 32), "m.lora_b": ones(4, 8)} | tensors
    writer = gguf.GGUFWriter(path, "llama")
    del writer.kv_data[0]["general.architecture"]
    for key, value in values.items():
        if isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_string(key, value)
    for name, array in arrays.items():
        if array is Q8_0_ROWS:
            writer.add_tensor(name, array, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        elif array is not None:
            halved = array.astype(np.float16) if array.dtype == np.float32 else array
            writer.add_tensor(name, halved)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_mutated_adapter_opens_or_is_refused(
    tmp_path: Path, architecture: Architecture, data: st.DataObject
) -> None:
    path = tmp_path / "a.gguf"
    if not (tmp_path / "whole.gguf").exists():
        make_adapter(tmp_path / "whole.gguf", architecture, PLAN, "Q8_0", rank=2)
    whole = (tmp_path / "whole.gguf").read_bytes()
    path.write_bytes(data.draw(mutations(whole, whole.rindex(b".lora_b") + 40)))
    try:
        adapter = Adapter.open(path)
        adapter.check_fits(architecture, PLAN)
    except BundleError as error:
        assert 0 < len(str(error)) < 2000
        return
    for name in adapter.names:
        a, b = adapter.factors(name)
        assert (a.shape[0], b.shape[1]) == (adapter.rank, adapter.rank)
