import copy

import numpy as np
import pytest
import torch

from pliant.bundle.plan import LayerPlan, Plan
from pliant.elastify.calibration import mean_loss, token_windows
from pliant.elastify.examples import Example
from pliant.elastify.gates import Gates
from pliant.elastify.precision import widen
from pliant.elastify.source import config_of
from pliant.elastify.submodel import slice_model
from support.tiny_hf import make_model

BATCHES = token_windows(Example.text(list(range(6, 306)) * 2), windows=4, window_tokens=32)
PLAN = Plan((LayerPlan(3, 2, 96), LayerPlan(4, 1, 32), LayerPlan(0, 0, 128)))


@pytest.mark.parametrize("overrides", [{}, {"head_dim": 32}, {"kind": "mistral"}])
def test_closed_gates_leave_the_loss_of_the_sub_model(overrides: dict) -> None:
    model = make_model(**overrides)
    before = mean_loss(model, BATCHES)
    with Gates(model, config_of(model.config)) as gates:
        assert gates.loss(BATCHES) == pytest.approx(before, abs=1e-6)
        gates.set(PLAN)
        found = gates.loss(BATCHES)
    assert found == pytest.approx(mean_loss(slice_model(model, PLAN), BATCHES), abs=1e-5)
    assert mean_loss(model, BATCHES) == before


def test_gates_of_16_bit_weights_compute_in_float32() -> None:
    model = make_model().to(torch.bfloat16)
    exact = copy.deepcopy(model).float()
    widen(model)
    found = []
    for each in (model, exact):
        with Gates(each, config_of(each.config)) as gates:
            gates.set(PLAN)
            found.append((gates.loss(BATCHES), gates.gradients(BATCHES)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert np.allclose(found[0][1].neurons, found[1][1].neurons, atol=1e-6)
    assert np.allclose(found[0][1].queries, found[1][1].queries, atol=1e-6)


def test_gates_between_two_plans_are_half_open() -> None:
    model = make_model()
    inner = Plan((LayerPlan(2, 2, 64), LayerPlan(4, 1, 32), LayerPlan(0, 0, 96)))
    with Gates(model, config_of(model.config)) as gates:
        gates.set(PLAN, inner)
        found = gates.loss(BATCHES)
    by_hand = slice_model(model, PLAN)
    with torch.no_grad():
        by_hand.model.layers[0].self_attn.o_proj.weight[:, 2 * 16 :] *= 0.5
        by_hand.model.layers[0].mlp.down_proj.weight[:, 64:] *= 0.5
        by_hand.model.layers[2].mlp.down_proj.weight[:, 96:] *= 0.5
    assert found == pytest.approx(mean_loss(by_hand, BATCHES), abs=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    model = make_model().double()
    config = config_of(model.config)
    step = 1e-2  # transformers takes the loss in float32
    with Gates(model, config) as gates:
        slopes = gates.gradients(BATCHES)
    columns = {  # the weights behind one query head (group 2, its head 1), and behind a neuron
        slopes.queries[1, 2, 1]: model.model.layers[1].self_attn.o_proj.weight[:, 5 * 8 : 6 * 8],
        slopes.neurons[2, 17]: model.model.layers[2].mlp.down_proj.weight[:, 17],
    }
    for found, weights in columns.items():
        original = weights.detach().clone()
        losses = []
        for factor in (1 + step, 1 - step):
            with torch.no_grad():
                weights.copy_(original * factor)
            losses.append(mean_loss(model, BATCHES))
        with torch.no_grad():
            weights.copy_(original)
        assert found == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-2)
    assert np.allclose(slopes.heads, slopes.queries.sum(2))
    assert all(parameter.grad is None for parameter in model.parameters())
