from typing import Any

import numpy as np
import pytest
import torch

from pliant.bundle import Plan, check_levels
from pliant.bundle.plan import LayerPlan
from pliant.elastify.allocation import _Descent, allocate_levels
from pliant.elastify.calibration import mean_loss, token_windows
from pliant.elastify.examples import Example
from pliant.elastify.gates import Gates
from pliant.elastify.narrowing import Narrowing
from pliant.elastify.source import SourceConfig, config_of
from pliant.elastify.submodel import slice_model
from support.shapes import architecture_of
from support.tiny_hf import make_model

BATCHES = token_windows(Example.text(list(range(6, 306)) * 2), windows=8, window_tokens=32)


@pytest.fixture(scope="module")
def model() -> Any:
    """Trained for a moment, so that its units are worth something; the MLP of layer 1 never is."""
    model = make_model(intermediate_size=256)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3 if parameter.ndim == 2 else 1.0)
        model.model.layers[1].mlp.down_proj.weight.zero_()
    model.model.layers[1].mlp.down_proj.weight.requires_grad_(False)
    kept = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(kept, lr=3e-3)
    for _ in range(30):
        loss = sum(model(input_ids=batch.tokens, labels=batch.tokens).loss for batch in BATCHES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def config(model: Any) -> SourceConfig:
    return config_of(model.config)


def test_what_units_are_worth_adds_up_to_what_the_loss_pays(
    model: Any, config: SourceConfig
) -> None:
    narrowing = Narrowing(architecture_of(config), 1, 1)
    full = Plan.full(architecture_of(config))
    for plan, inner in (
        (full, widths(config, 3, 224)),
        (widths(config, 3, 192), widths(config, 2, 160)),
    ):
        with Gates(model, config) as gates:
            values = _Descent(gates, narrowing, BATCHES)._values(plan, inner)
        told = sum(
            values.queries[index, small.kv_heads : large.kv_heads].sum()
            + values.neurons[index, small.ff : large.ff].sum()
            for index, (small, large) in enumerate(zip(inner.layers, plan.layers, strict=True))
        )
        losses = [mean_loss(slice_model(model, one), BATCHES) for one in (inner, plan)]
        assert told == pytest.approx(losses[0] - losses[1], rel=0.25)


def widths(config: SourceConfig, kv_heads: int, ff: int) -> Plan:
    return Plan((LayerPlan(kv_heads, config.heads_per_kv, ff),) * config.num_layers)


def test_levels_are_nested_and_drop_first_what_does_nothing(
    model: Any, config: SourceConfig
) -> None:
    architecture = architecture_of(config)
    choice = allocate_levels(model, config, architecture, BATCHES, targets=(0.8, 0.6, 0.4))
    check_levels(architecture, choice.levels)
    assert [level.ratio for level in choice.levels] == [0.4, 0.6, 0.8, 1.0]
    for level in choice.levels:
        assert level.ratio - 0.05 < level.cost <= level.ratio
    widths = [layer.ff for layer in choice.levels[1].plan.layers]
    assert widths[1] == min(widths) < 128


def test_the_same_text_gives_the_same_levels(model: Any, config: SourceConfig) -> None:
    arguments = (model, config, architecture_of(config), BATCHES)
    first, second = (allocate_levels(*arguments, targets=(0.5,)) for _ in range(2))
    assert first == second


def test_a_floor_is_said_and_not_faked(model: Any, config: SourceConfig) -> None:
    architecture = architecture_of(config)
    choice = allocate_levels(model, config, architecture, BATCHES, targets=(0.5, 0.01))
    check_levels(architecture, choice.levels)
    assert "cannot be reached" in choice.notes[0]
    assert {layer.heads for layer in choice.levels[0].plan.layers} == {1}
    assert np.all([layer.ff == 32 for layer in choice.levels[0].plan.layers])
