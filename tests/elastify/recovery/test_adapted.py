"""What trains is the sub-model that runs; what is exported computes the same in llama.cpp."""

import ctypes
from contextlib import closing
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
import torch

from pliant.bundle import Architecture, GgufFile, LayerPlan, Plan, write_adapter
from pliant.bundle.modules import modules
from pliant.elastify.export import write_gguf, write_submodel_gguf
from pliant.elastify.recovery.adapted import adapt, factors_of, gguf_factors, trained_parameters
from pliant.elastify.submodel import logits, slice_model
from pliant.elastify.vocabulary import read_vocabulary
from support.llama_reference import LlamaReference
from support.tiny_hf import LLAMA3_ROPE, make_folder, make_model

MIXED = Plan((LayerPlan(4, 2, 128), LayerPlan(2, 2, 64), LayerPlan(1, 1, 32)))
WITHOUT_PARTS = Plan((LayerPlan(2, 2, 0), LayerPlan(0, 0, 64), LayerPlan(1, 2, 96)))
WITHOUT_ATTENTION = Plan((LayerPlan(2, 2, 32), LayerPlan(0, 0, 64), LayerPlan(1, 2, 96)))


def trained(model, plan: Plan):
    """An adapted model whose factors are far from where they start."""
    adapted = adapt(model, plan, rank=4, alpha=6, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in trained_parameters(adapted).values():
            weight.copy_(torch.randn_like(weight) * 0.1)
    return adapted


@pytest.mark.parametrize("plan", [MIXED, WITHOUT_PARTS])
def test_an_untrained_adapter_changes_nothing(plan: Plan, tokens: torch.Tensor) -> None:
    model = make_model()
    adapted = adapt(model, plan, rank=4, alpha=6, seed=0)
    bare = slice_model(model, plan)
    torch.testing.assert_close(logits(adapted, tokens[None]), logits(bare, tokens[None]))


def test_only_the_factors_are_trained_and_weights_are_shared() -> None:
    model = make_model()
    adapted = adapt(model, MIXED, rank=4, alpha=6, seed=0)
    assert all(".lora_" in name for name in trained_parameters(adapted))
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    for name in ("q_proj", "k_proj", "v_proj"):
        base = adapted.get_submodule(f"model.layers.1.self_attn.{name}").base_layer
        assert base.weight.untyped_storage().data_ptr() in own
    for name in ("gate_proj", "up_proj", "down_proj"):
        base = adapted.get_submodule(f"model.layers.1.mlp.{name}").base_layer
        assert base.weight.untyped_storage().data_ptr() in own


def test_factors_of_half_precision_weights_are_float32(tokens: torch.Tensor) -> None:
    adapted = adapt(make_model().to(torch.bfloat16), MIXED, rank=4, alpha=6, seed=0)
    assert {weight.dtype for weight in trained_parameters(adapted).values()} == {torch.float32}
    assert logits(adapted, tokens[None]).isfinite().all()


def test_the_seed_decides_where_training_starts() -> None:
    model = make_model()
    state = torch.random.get_rng_state()
    first, again, other = (
        factors_of(adapt(model, MIXED, rank=4, alpha=6, seed=seed)) for seed in (0, 0, 1)
    )
    name = "model.layers.0.mlp.up_proj"
    assert np.array_equal(first[name][0], again[name][0])
    assert not np.array_equal(first[name][0], other[name][0])
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("plan", [MIXED, WITHOUT_PARTS])
def test_factors_fit_the_modules_that_run(plan: Plan, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "hf")
    model = make_model()
    write_gguf(model, read_vocabulary(folder, 320), tmp_path / "m.gguf", "F16", "m")
    architecture = Architecture.from_gguf(GgufFile.open(tmp_path / "m.gguf"))
    factors = gguf_factors(factors_of(trained(model, plan)), architecture)
    expected = {m.name: ((4, m.columns), (m.rows, 4)) for m in modules(architecture, plan)}
    assert {name: (a.shape, b.shape) for name, (a, b) in factors.items()} == expected
    adapter = write_adapter(tmp_path / "a.gguf", architecture.name, factors, 6, "F16")
    adapter.check_fits(architecture, plan)


@pytest.mark.parametrize("overrides", [{}, {"rope_parameters": LLAMA3_ROPE, "head_dim": 32}])
@pytest.mark.parametrize("plan", [MIXED, WITHOUT_ATTENTION])
def test_llama_cpp_computes_the_same_with_the_adapter(
    plan: Plan, overrides: dict, tokens: torch.Tensor, tmp_path: Path
) -> None:
    model = make_model(**overrides)
    adapted = trained(model, plan)
    vocabulary = read_vocabulary(make_folder(tmp_path / "hf", **overrides), 320)
    whole, sub, file = (tmp_path / f"{name}.gguf" for name in ("whole", "sub", "adapter"))
    write_gguf(model, vocabulary, whole, "F16", "whole")
    write_submodel_gguf(model, plan, vocabulary, sub, "F16", "sub")
    architecture = Architecture.from_gguf(GgufFile.open(whole))
    write_adapter(file, "deci", gguf_factors(factors_of(adapted), architecture), 6, "F16")
    expected = logits(adapted, tokens[None])[0].numpy()
    bare, found = reference_logits_with(sub, file, tokens.tolist())
    assert np.abs(found - expected).max() < 3e-2
    assert np.abs(bare - expected).max() > 0.3


def reference_logits_with(
    model: Path, adapter: Path, tokens: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """llama.cpp's logits of the model alone, and with the adapter at scale 1."""
    with closing(LlamaReference(model)) as reference:
        bare = reference.logits(tokens)
        handle = llama_cpp.llama_adapter_lora_init(reference._model, str(adapter).encode())
        assert handle, "llama.cpp does not read the adapter"
        handles = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(handle)
        scales = (ctypes.c_float * 1)(1.0)
        status = llama_cpp.llama_set_adapters_lora(reference._context, handles, 1, scales)
        assert status == 0
        return bare, reference.logits(tokens)
