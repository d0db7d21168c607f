import copy
from pathlib import Path

import pytest
import torch

from pliant.bundle import LayerPlan, Plan
from pliant.elastify.export import write_submodel_gguf
from pliant.elastify.source import read_config
from pliant.elastify.submodel import logits, slice_model
from pliant.elastify.vocabulary import read_vocabulary
from pliant.errors import PlanError
from support.llama_reference import reference_logits
from support.tiny_hf import LLAMA3_ROPE, make_folder, make_model

FULL = Plan((LayerPlan(4, 2, 128),) * 3)
MIXED = Plan((LayerPlan(4, 2, 128), LayerPlan(2, 2, 64), LayerPlan(1, 1, 32)))
WITHOUT_ATTENTION = Plan((LayerPlan(2, 2, 32), LayerPlan(0, 0, 64), LayerPlan(1, 2, 96)))
WITHOUT_PARTS = Plan((LayerPlan(4, 2, 0), LayerPlan(0, 0, 64), LayerPlan(0, 0, 0)))


def masked(model, plan: Plan):
    """The whole model with zeros where the plan's units end: another road to the same result."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for block, layer in zip(model.model.layers, plan.layers, strict=True):
            dim = block.self_attn.head_dim
            for head in range(8):
                if head // 2 >= layer.kv_heads or head % 2 >= layer.heads_per_kv:
                    block.self_attn.o_proj.weight[:, head * dim : (head + 1) * dim] = 0
            block.mlp.down_proj.weight[:, layer.ff :] = 0
    return model


def test_the_full_plan_is_the_model(tokens: torch.Tensor) -> None:
    model = make_model()
    small = slice_model(model, FULL)
    assert torch.equal(logits(small, tokens[None]), logits(model, tokens[None]))
    assert small.model.embed_tokens.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("plan", [MIXED, WITHOUT_PARTS])
@pytest.mark.parametrize("overrides", [{}, {"head_dim": 32, "tie_word_embeddings": False}])
def test_a_sub_model_is_the_model_without_the_other_units(
    plan: Plan, overrides: dict, tokens: torch.Tensor
) -> None:
    model = make_model(**overrides)
    before = logits(model, tokens[None])
    found = logits(slice_model(model, plan), tokens[None])
    torch.testing.assert_close(found, logits(masked(model, plan), tokens[None]))
    assert torch.equal(logits(model, tokens[None]), before)


def test_a_sub_model_generates_with_a_cache(tokens: torch.Tensor) -> None:
    small = slice_model(make_model(), MIXED)
    prefill = small(input_ids=tokens[None, :-1], use_cache=True)
    step = small(input_ids=tokens[None, -1:], past_key_values=prefill.past_key_values)
    torch.testing.assert_close(step.logits[:, -1], logits(small, tokens[None])[:, -1])


@pytest.mark.parametrize("overrides", [{}, {"rope_parameters": LLAMA3_ROPE, "head_dim": 32}])
def test_llama_cpp_runs_the_same_sub_model(
    overrides: dict, tokens: torch.Tensor, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, **overrides)
    vocabulary = read_vocabulary(folder, read_config(folder).vocab_size)
    model = make_model(**overrides)
    for plan in (FULL, MIXED, WITHOUT_ATTENTION):
        write_submodel_gguf(model, plan, vocabulary, tmp_path / "sub.gguf", "F16", "sub")
        found = reference_logits(tmp_path / "sub.gguf", tokens.tolist())
        expected = logits(slice_model(model, plan), tokens[None])[0].numpy()
        assert abs(found - expected).max() < 3e-2


def test_what_cannot_be_run_is_refused(tmp_path: Path) -> None:
    model = make_model()
    with pytest.raises(PlanError, match="2 layers, the model 3"):
        slice_model(model, Plan(FULL.layers[:2]))
    vocabulary = read_vocabulary(make_folder(tmp_path), 320)
    for plan in (WITHOUT_PARTS, Plan((LayerPlan(0, 0, 32), *FULL.layers[1:]))):
        with pytest.raises(PlanError, match="first layer"):
            write_submodel_gguf(model, plan, vocabulary, tmp_path / "sub.gguf", "F16", "sub")
