import numpy as np
import pytest
import torch

from pliant.elastify.calibration import token_windows
from pliant.elastify.examples import Example
from pliant.elastify.importance import (
    activation_scores,
    check_importance,
    fisher_scores,
    magnitude_scores,
    natural_order,
    order_by,
    random_order,
    taylor_scores,
)
from pliant.elastify.source import config_of
from pliant.elastify.windows import Windows, joined
from pliant.errors import ElastifyError
from support.tiny_hf import make_model

BATCHES = token_windows(Example.text(list(range(6, 306)) * 2), windows=4, window_tokens=32)


def test_taylor_is_the_sum_of_gradient_times_weight_over_the_unit() -> None:
    model = make_model()
    config = config_of(model.config)
    weights = torch.rand((1, 31), generator=torch.Generator().manual_seed(2))
    window = Windows(BATCHES[0].tokens[:1], weights)
    scores = taylor_scores(model, config, [window])
    logs = torch.log_softmax(model(input_ids=window.tokens).logits[0, :-1], dim=-1)
    (-logs.gather(1, window.tokens[0, 1:, None])[:, 0] @ weights[0]).backward()
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


def test_query_heads_have_their_own_rows_and_columns() -> None:
    model = make_model()
    scores = magnitude_scores(model, config_of(model.config))
    attention = model.model.layers[0].self_attn
    expected = (
        attention.q_proj.weight[7 * 8 :].abs().sum()
        + attention.o_proj.weight[:, 7 * 8 :].abs().sum()
    )
    assert np.isclose(scores.queries[0, 3, 1], expected.item())  # group 3, its second head


def test_fisher_is_the_loss_without_the_unit_to_second_order() -> None:
    """For a unit of little weight -g + g^2/2 is -g, and -g is what leaving it out costs."""
    model = make_model()
    config = config_of(model.config)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[:, 9] *= 0.01
    window = BATCHES[0].tokens[:1]
    found = fisher_scores(model, config, [BATCHES[0].take([0])]).neurons[1, 9]
    with torch.no_grad():
        before = model(input_ids=window, labels=window).loss.double()
        model.model.layers[1].mlp.down_proj.weight[:, 9] = 0
        after = model(input_ids=window, labels=window).loss.double()
    assert np.isclose(found, float(after - before) * (window.numel() - 1), rtol=0.1, atol=2e-4)


def test_activation_is_the_energy_of_what_a_unit_adds() -> None:
    model = make_model()
    config = config_of(model.config)
    scores = activation_scores(model, config, BATCHES)
    block = model.model.layers[2]
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        block.mlp.down_proj.register_forward_hook(lambda _, x, __: seen.update(mlp=x[0])),
        block.self_attn.o_proj.register_forward_hook(lambda _, x, __: seen.update(heads=x[0])),
    ]
    with torch.no_grad():
        model(input_ids=joined(BATCHES).tokens)
    for hook in hooks:
        hook.remove()
    tokens = joined(BATCHES).tokens.numel()
    added = seen["mlp"][..., 3, None] * block.mlp.down_proj.weight[:, 3]
    assert np.isclose(scores.neurons[2, 3], added.square().sum().item() / tokens, rtol=1e-4)
    columns = slice(5 * 8, 6 * 8)  # query head 5: group 2, its second
    energy = seen["heads"][..., columns].square() * block.self_attn.o_proj.weight[
        :, columns
    ].square().sum(0)
    assert np.isclose(scores.queries[2, 2, 1], energy.sum().item() / tokens, rtol=1e-4)
    assert np.allclose(scores.heads, scores.queries.sum(2))


def test_an_unknown_importance_is_refused() -> None:
    with pytest.raises(ElastifyError, match="'luck' is not one of taylor, fisher, activation"):
        check_importance("luck")


def test_taylor_adds_windows_up_and_repeats_exactly() -> None:
    model = make_model()
    config = config_of(model.config)
    windows = joined(BATCHES)
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
