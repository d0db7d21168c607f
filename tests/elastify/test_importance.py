import numpy as np
import torch

from pliant.elastify.calibration import token_windows
from pliant.elastify.importance import (
    magnitude_scores,
    natural_order,
    order_by,
    random_order,
    taylor_scores,
)
from pliant.elastify.source import config_of
from support.tiny_hf import make_model

BATCHES = token_windows(list(range(6, 306)) * 2, windows=4, window_tokens=32)


def test_taylor_is_the_sum_of_gradient_times_weight_over_the_unit() -> None:
    model = make_model()
    config = config_of(model.config)
    window = BATCHES[0][:1]
    scores = taylor_scores(model, config, [window])
    model(input_ids=window, labels=window).loss.backward()
    block = model.model.layers[1]
    products = {name: (p * p.grad).abs() for name, p in block.named_parameters()}

    neuron = 17
    assert np.isclose(
        scores.neurons[1, neuron],
        (
            products["mlp.gate_proj.weight"][neuron].sum()
            + products["mlp.up_proj.weight"][neuron].sum()
            + products["mlp.down_proj.weight"][:, neuron].sum()
        ).item(),
    )
    dim = config.head_dim
    keys, queries = slice(2 * dim, 3 * dim), slice(4 * dim, 6 * dim)  # KV head 2, heads 4 and 5
    assert np.isclose(
        scores.heads[1, 2],
        (
            products["self_attn.q_proj.weight"][queries].sum()
            + products["self_attn.k_proj.weight"][keys].sum()
            + products["self_attn.v_proj.weight"][keys].sum()
            + products["self_attn.o_proj.weight"][:, queries].sum()
        ).item(),
    )


def test_taylor_adds_windows_up_and_repeats_exactly() -> None:
    model = make_model()
    config = config_of(model.config)
    windows = torch.cat(BATCHES)
    whole = taylor_scores(model, config, [windows])
    single = [taylor_scores(model, config, [window]) for window in windows.split(1)]
    assert np.allclose(whole.neurons, sum(scores.neurons for scores in single))
    assert np.array_equal(whole.heads, taylor_scores(model, config, windows.split(2)).heads)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_units_that_do_nothing_come_last() -> None:
    model = make_model()
    config = config_of(model.config)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[:, 5] = 0
        model.model.layers[0].mlp.gate_proj.weight[5] = 0
        model.model.layers[2].self_attn.o_proj.weight[:, :16] = 0
        model.model.layers[2].self_attn.v_proj.weight[:8] = 0
    order = order_by(taylor_scores(model, config, BATCHES))
    assert order.neurons[0, -1] == 5
    assert order.heads[2, -1] == 0


def test_magnitude_is_the_sum_of_absolute_weights() -> None:
    model = make_model()
    scores = magnitude_scores(model, config_of(model.config))
    mlp = model.model.layers[2].mlp
    expected = (
        mlp.gate_proj.weight[3].abs().sum()
        + mlp.up_proj.weight[3].abs().sum()
        + mlp.down_proj.weight[:, 3].abs().sum()
    )
    assert np.isclose(scores.neurons[2, 3], expected.item())


def test_random_orders_are_permutations_that_the_seed_decides() -> None:
    config = config_of(make_model().config)
    order = random_order(config, seed=3)
    natural = natural_order(config)
    assert np.array_equal(np.sort(order.neurons, axis=1), natural.neurons)
    assert np.array_equal(np.sort(order.heads, axis=1), natural.heads)
    assert np.array_equal(order.neurons, random_order(config, seed=3).neurons)
    assert not np.array_equal(order.neurons, random_order(config, seed=4).neurons)
    assert not np.array_equal(order.neurons[0], order.neurons[1])
