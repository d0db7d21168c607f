from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pliant.bundle import Architecture, GgufFile
from pliant.elastify.export import write_gguf
from pliant.elastify.rope import llama3_factors
from pliant.elastify.source import config_of, read_config
from pliant.elastify.submodel import logits
from pliant.elastify.vocabulary import read_vocabulary
from pliant.errors import ElastifyError
from support.llama_reference import reference_logits
from support.tiny_hf import LLAMA3_ROPE, make_folder, make_model

VARIANTS = [
    {},
    {"tie_word_embeddings": False},
    {"rope_parameters": LLAMA3_ROPE},
    {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}},
    {"head_dim": 32},
    {"num_key_value_heads": 8},
    {"kind": "mistral"},
]


def export(folder: Path, quantization: str = "F16", **overrides) -> Path:
    folder = make_folder(folder, **overrides)
    vocabulary = read_vocabulary(folder, read_config(folder).vocab_size)
    path = folder / "model.gguf"
    write_gguf(make_model(**overrides), vocabulary, path, quantization, "tiny")
    return path


@pytest.mark.parametrize("overrides", VARIANTS)
def test_llama_cpp_computes_what_transformers_does(
    overrides: dict, tokens: torch.Tensor, tmp_path: Path
) -> None:
    found = reference_logits(export(tmp_path, **overrides), tokens.tolist())
    expected = logits(make_model(**overrides), tokens[None])[0].numpy()
    assert abs(found - expected).max() < 3e-2


@pytest.mark.parametrize(("quantization", "limit"), [("Q8_0", 0.1), ("Q4_0", 0.7)])
def test_quantized_files_differ_by_rounding_only(
    quantization: str, limit: float, tokens: torch.Tensor, tmp_path: Path
) -> None:
    found = reference_logits(export(tmp_path, quantization), tokens.tolist())
    expected = logits(make_model(), tokens[None])[0].numpy()
    assert np.sqrt(np.mean((found - expected) ** 2)) < limit * expected.std()


@pytest.mark.parametrize("overrides", VARIANTS)
def test_pliant_reads_the_sizes_back(overrides: dict, tmp_path: Path) -> None:
    architecture = Architecture.from_gguf(GgufFile.open(export(tmp_path, **overrides)))
    config = config_of(make_model(**overrides).config)
    names = ("num_layers", "hidden_size", "num_heads", "num_kv_heads", "head_dim", "ff")
    names += ("vocab_size", "context_length", "tied_embeddings")
    for name in names:
        assert getattr(architecture, name) == getattr(config, name)
    assert architecture.rms_eps == pytest.approx(config.rms_eps)
    assert architecture.rope_base == pytest.approx(config.rope_base)
    kind = config.rope_scaling.kind if config.rope_scaling else None
    assert architecture.has_rope_factors == (kind == "llama3")
    assert architecture.rope_scaling_type == ("linear" if kind == "linear" else "none")


def test_types_of_the_tensors(tmp_path: Path) -> None:
    def types(quantization: str, **overrides) -> dict[str, str]:
        path = export(tmp_path / quantization, quantization, **overrides)
        return {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}

    q8 = types("Q8_0", intermediate_size=100)
    assert q8["token_embd.weight"] == q8["blk.0.ffn_gate.weight"] == "Q8_0"
    assert q8["blk.0.ffn_down.weight"] == "F16"  # rows of 100 are not whole blocks
    assert q8["blk.0.attn_norm.weight"] == q8["output_norm.weight"] == "F32"
    assert types("Q4_0")["token_embd.weight"] == "Q8_0"
    untied = types("Q4_0", tie_word_embeddings=False)
    assert (untied["token_embd.weight"], untied["output.weight"]) == ("Q4_0", "Q8_0")
    assert untied["blk.2.attn_q.weight"] == "Q4_0"


def test_rope_factors_are_those_of_transformers() -> None:
    config = make_model(rope_parameters=LLAMA3_ROPE, head_dim=32).config
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, None)
    plain = 1.0 / 10000.0 ** (np.arange(0, 32, 2) / 32)
    source = config_of(config)
    factors = llama3_factors(source.rope_base, source.head_dim, source.rope_scaling)
    np.testing.assert_allclose(factors, plain / scaled.numpy(), rtol=1e-5)


def test_an_unknown_quantization_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ElastifyError, match="'Q3_K' is not one of F16, Q8_0, Q6_K, Q5_K, Q4_K, Q4_0"
    ):
        export(tmp_path, "Q3_K")
