"""Pieces that are encoded apart are what ggml encodes as a whole; importance does its work."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as QuantType
from gguf import GGUFReader, dequantize

from pliant.elastify import quantization
from pliant.elastify.activations import ActivationMeter, reorder_columns
from pliant.elastify.export import write_gguf
from pliant.elastify.importance import random_order
from pliant.elastify.quantization import QUANTIZATIONS, encode, stored_type
from pliant.elastify.reorder import reorder_model
from pliant.elastify.source import config_of, read_config
from pliant.elastify.vocabulary import read_vocabulary
from pliant.errors import ElastifyError
from pliant.ggml.quantize import quantize
from pliant.ggml.types import GgmlType
from support.llama_reference import reference_logits
from support.tiny_hf import make_folder, make_model

WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 32}


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_pieces_are_those_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, "_CHUNK_ELEMENTS", 1500)
    weight = torch.randn(17, 512, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    importance = np.random.default_rng(0).random(512, dtype=np.float32) + 0.1
    pieces = list(encode(weight, QUANTIZATIONS[name], importance))
    assert len(pieces) == 9
    values = weight.float().numpy()
    if name == "F16":
        expected = values.astype(np.float16).view(np.uint8)
    else:
        expected = quantize(values, GgmlType[name], importance)
    assert np.concatenate(pieces).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q5_K", "Q6_K"])
def test_important_columns_are_kept_better(name: str) -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    importance = np.where(np.arange(256) % 8 == 0, 100.0, 0.0).astype(np.float32)

    def error(weights: np.ndarray | None) -> float:
        stored = np.concatenate(list(encode(weight, QUANTIZATIONS[name], weights)))
        found = dequantize(stored, QUANTIZATIONS[name])
        return float((((found - weight.numpy()) ** 2) * importance).mean())

    assert error(importance) < 0.8 * error(None)
    assert error(np.zeros(256, np.float32)) == error(None)


def test_types_that_fit_the_rows() -> None:
    assert stored_type(QuantType.Q4_K, 512) is QuantType.Q4_K
    assert stored_type(QuantType.Q4_K, 96) is QuantType.Q8_0
    assert stored_type(QuantType.Q4_K, 100) is QuantType.F16
    assert stored_type(QuantType.Q4_0, 96) is QuantType.Q4_0
    assert stored_type(QuantType.F16, 100) is QuantType.F16
    assert stored_type(QuantType.F32, 100) is QuantType.F32


def test_what_is_too_large_for_f16_is_named(tmp_path: Path) -> None:
    model = make_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = 1e6
    vocabulary = read_vocabulary(make_folder(tmp_path), 320)
    message = r"blk\.1\.ffn_up\.weight cannot be stored as F16: .*1e\+06"
    with pytest.raises(ElastifyError, match=message):
        write_gguf(model, vocabulary, tmp_path / "model.gguf", "F16", "tiny")


@pytest.mark.parametrize(("name", "limit"), [("Q4_K", 0.8), ("Q5_K", 0.5), ("Q6_K", 0.35)])
def test_llama_cpp_reads_k_quants(
    name: str, limit: float, tokens: torch.Tensor, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, **WIDE)
    model = make_model(**WIDE)
    vocabulary = read_vocabulary(folder, read_config(folder).vocab_size)
    meter = ActivationMeter()
    with meter.attached(model):
        expected = model(input_ids=tokens[None]).logits[0].detach().numpy()
    path = folder / "model.gguf"
    write_gguf(model, vocabulary, path, name, "tiny", importance=meter.means())
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}
    assert types["blk.0.ffn_down.weight"] == types["blk.2.attn_q.weight"] == name
    assert types["token_embd.weight"] == "Q6_K"  # tied: it is the output matrix
    found = reference_logits(path, tokens.tolist())
    assert np.sqrt(np.mean((found - expected) ** 2)) < limit * expected.std()


def test_the_importance_matrix_is_the_mean_square_of_the_inputs(tokens: torch.Tensor) -> None:
    model = make_model()
    inputs: list[torch.Tensor] = []
    down = model.model.layers[1].mlp.down_proj
    handle = down.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    meter = ActivationMeter()
    with meter.attached(model):
        for batch in tokens.reshape(2, 20):
            model(input_ids=batch[None])
    handle.remove()
    expected = torch.cat([each[0] for each in inputs]).square().mean(0)
    means = meter.means()
    np.testing.assert_allclose(means[1, "mlp.down_proj"], expected.detach(), rtol=1e-5)
    assert len(means) == 3 * 7
    assert not down._forward_pre_hooks


def test_columns_move_with_their_units(tokens: torch.Tensor) -> None:
    model = make_model()
    config = config_of(model.config)
    order = random_order(config, seed=1)

    def measured(run: Callable[[], object]) -> dict:
        meter = ActivationMeter()
        with meter.attached(model):
            run()
        return meter.means()

    before = measured(lambda: model(input_ids=tokens[None]))
    reorder_model(model, config, order)
    after = measured(lambda: model(input_ids=tokens[None]))
    moved = reorder_columns(before, order)
    for key, values in after.items():
        np.testing.assert_allclose(moved[key], values, rtol=1e-3, atol=1e-6)
    assert not np.allclose(before[0, "mlp.down_proj"], after[0, "mlp.down_proj"], rtol=1e-2)
