"""tlm.gguf: what is written is read, and damaged or foreign files are explained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pliant.bundle import Bundle, GgufFile
from pliant.errors import BundleError, CorruptFileError, UnsupportedModelError
from pliant.ggml.quantize import dequantize
from pliant.ggml.types import GgmlType
from pliant.tlm import format as tlm_format
from pliant.tlm.format import TlmFile, vocabulary_sha256
from pliant.tlm.model import TinyModel
from pliant.tlm.training import export
from pliant.tlm.training.export import write_tlm
from support.mutations import mutations
from support.tiny_bundle import RATIOS, make_tiny_bundle
from support.tiny_gguf import make_tiny_gguf
from support.tiny_tlm import tiny_network


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def whole(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tlm") / "tlm.gguf"
    write_tlm(path, tiny_network(bundle))
    return path


@pytest.mark.parametrize(("weights", "step"), [("Q8_0", 1 / 127), ("F16", 1e-3), ("F32", 0.0)])
def test_what_is_written_is_read(bundle: Bundle, tmp_path: Path, weights: Any, step: float) -> None:
    network = tiny_network(bundle)
    file = write_tlm(tmp_path / "tlm.gguf", network, weights)
    assert file.config.norm_eps == pytest.approx(network.config.norm_eps)
    assert replace(file.config, norm_eps=network.config.norm_eps) == network.config
    assert (file.config.levels, file.lowercase) == (RATIOS, False)
    assert file.vocabulary_sha256 == vocabulary_sha256(bundle.gguf)
    for name, expected in network.state_dict().items():
        info = file.gguf.tensors[name]
        data = np.frombuffer(file.gguf.tensor_bytes(name), np.uint8)
        found = dequantize(data.reshape(expected.numel() // info.shape[0], -1), info.type)
        limit = step * float(expected.abs().max()) if info.type is not GgmlType.F32 else 0
        np.testing.assert_allclose(found.reshape(expected.shape), expected.numpy(), atol=limit)


def test_only_vectors_embeddings_and_heads_stay_wide(whole: Path) -> None:
    types = {name: info.type for name, info in GgufFile.open(whole).tensors.items()}
    assert types["token_embd.weight"] is types["decision.0.ffn_up.weight"] is GgmlType.Q8_0
    assert types["slo_embd.weight"] is types["level_head.weight"] is GgmlType.F32


def test_a_language_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="'llama', not a tiny language model"):
        TlmFile.open(make_tiny_gguf(tmp_path / "m.gguf"))


def test_a_newer_format_asks_for_an_update(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "VERSION", tlm_format.VERSION + 1)
    with pytest.raises(UnsupportedModelError, match="update pliant"):
        write_tlm(tmp_path / "tlm.gguf", tiny_network(bundle))


def test_a_training_that_diverged_is_not_written(bundle: Bundle, tmp_path: Path) -> None:
    network = tiny_network(bundle)
    network.pooler.bias.data[3] = float("nan")
    with pytest.raises(BundleError, match="pooler.bias holds values that are not finite"):
        write_tlm(tmp_path / "tlm.gguf", network)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "num_heads is 3; it must be a divisor of 64"),
        ({"hidden_size": 48}, "a multiple of 32"),
        ({"window": 2}, "window is 2"),
        ({"levels": (0.5, 0.3, 1.0)}, "ascending to 1.0"),
        ({"prompt_ratios": (0.5,)}, "ascending to 1.0"),
        ({"sep_token": 10**6}, "sep_token"),
        ({"activation": "swish"}, "gelu or relu"),
        ({"norm_eps": 0.0}, "norm_eps"),
    ],
)
def test_sizes_that_cannot_be_run_are_refused(
    bundle: Bundle, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        replace(tiny_network(bundle).config, **changes)


def test_another_model_beside_the_file_is_noticed(whole: Path, tmp_path: Path) -> None:
    other = make_tiny_gguf(tmp_path / "other.gguf", vocab=300)
    with pytest.raises(BundleError, match="another tokenizer"):
        TinyModel(whole, model=other)
    with pytest.raises(BundleError, match="which is missing; give the model"):
        TinyModel(whole)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_mutated_file_opens_or_is_refused(
    whole: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = whole.read_bytes()
    header = min(info.offset for info in GgufFile.open(whole).tensors.values())
    path = tmp_path / "m.gguf"
    path.write_bytes(data.draw(mutations(content, header)))
    try:
        TlmFile.open(path)
    except BundleError as error:
        assert 0 < len(str(error)) < 2000
