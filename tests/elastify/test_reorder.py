import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from pliant.elastify.importance import natural_order, random_order
from pliant.elastify.reorder import reorder_model
from pliant.elastify.source import config_of
from pliant.elastify.submodel import logits
from pliant.errors import ElastifyError
from support.tiny_hf import LLAMA3_ROPE, make_model


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"head_dim": 32},
        {"num_key_value_heads": 1},
        {"num_key_value_heads": 8},
        {"tie_word_embeddings": False, "rope_parameters": LLAMA3_ROPE},
        {"kind": "mistral"},
    ],
)
def test_a_reordered_model_computes_the_same(overrides: dict, tokens: torch.Tensor) -> None:
    model = make_model(**overrides)
    before = logits(model, tokens[None])
    config = config_of(model.config)
    reorder_model(model, config, random_order(config, seed=5))
    assert (logits(model, tokens[None]) - before).abs().max() <= 1e-4


def test_whole_groups_of_query_heads_move_with_their_kv_head() -> None:
    model = make_model()
    original = copy.deepcopy(model.model.layers[0].self_attn)
    config = config_of(model.config)
    order = natural_order(config)
    order.heads[0] = [2, 0, 3, 1]
    reorder_model(model, config, order)
    moved, dim = model.model.layers[0].self_attn, config.head_dim
    assert torch.equal(moved.k_proj.weight[:dim], original.k_proj.weight[2 * dim : 3 * dim])
    assert torch.equal(moved.q_proj.weight[: 2 * dim], original.q_proj.weight[4 * dim : 6 * dim])
    assert torch.equal(
        moved.o_proj.weight[:, 6 * dim :], original.o_proj.weight[:, 2 * dim : 4 * dim]
    )


def test_query_heads_move_inside_their_group() -> None:
    model = make_model()
    original = copy.deepcopy(model.model.layers[0].self_attn)
    config = config_of(model.config)
    order = natural_order(config)
    order.heads[0] = [2, 0, 3, 1]
    order.queries[0, 2] = [1, 0]  # of the group that was the third
    reorder_model(model, config, order)
    moved, dim = model.model.layers[0].self_attn, config.head_dim
    for place, old in enumerate([5, 4, 0, 1, 6, 7, 2, 3]):
        now, before = slice(place * dim, (place + 1) * dim), slice(old * dim, (old + 1) * dim)
        assert torch.equal(moved.q_proj.weight[now], original.q_proj.weight[before])
        assert torch.equal(moved.o_proj.weight[:, now], original.o_proj.weight[:, before])
    assert torch.equal(moved.v_proj.weight[:dim], original.v_proj.weight[2 * dim : 3 * dim])


def test_what_is_no_permutation_is_refused() -> None:
    model = make_model()
    config = config_of(model.config)
    order = natural_order(config)
    doubled = order.neurons.copy()
    doubled[1, 0] = doubled[1, 1]
    for wrong in (
        replace(order, neurons=doubled),
        replace(order, heads=order.heads[:-1]),
        replace(order, queries=np.zeros_like(order.queries)),
    ):
        with pytest.raises(ElastifyError, match="not a permutation"):
            reorder_model(model, config, wrong)
