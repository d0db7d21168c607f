from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.bundle import Architecture, Plan, cost_ratio
from pliant.bundle.plan import LayerPlan
from pliant.elastify.narrowing import Narrowing
from pliant.elastify.units import UnitScores
from support.shapes import LLAMA_1B, architectures

SMALL = replace(
    LLAMA_1B,
    num_layers=3,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=4,
    head_dim=16,
    ff=128,
    vocab_size=300,
)


def random_values(architecture: Architecture, seed: int) -> UnitScores:
    generator = np.random.default_rng(seed)
    shape = (architecture.num_layers, architecture.num_kv_heads, architecture.heads_per_kv)
    return UnitScores.of_queries(
        generator.normal(0.5, 1, shape), generator.normal(0.5, 1, (shape[0], architecture.ff))
    )


@settings(deadline=None, max_examples=60)
@given(
    architecture=architectures(),
    block=st.sampled_from([1, 32, 256]),
    target=st.floats(0.1, 0.99),
    seed=st.integers(0, 99),
)
def test_every_step_runs_fits_and_comes_below_its_target(
    architecture: Architecture, block: int, target: float, seed: int
) -> None:
    narrowing = Narrowing(architecture, block, block)
    values = random_values(architecture, seed)
    plan = Plan.full(architecture)
    while narrowing.cost(plan) > target and narrowing.tails_dropped(plan) != plan:
        inner = narrowing.tails_dropped(plan)
        narrower = narrowing.narrow(plan, inner, values, target)
        assert narrower.fits_in(plan) and narrower != plan
        assert inner.fits_in(narrower)
        plan = narrowing.widen(narrower, plan, values, target)
        assert narrower.fits_in(plan)
    plan.validate(architecture)
    smallest = narrowing.smallest(plan)
    assert smallest.fits_in(plan)
    assert narrowing.cost(plan) <= target or narrowing.cost(smallest) == narrowing.cost(plan)
    for layer in (*plan.layers, *smallest.layers):
        check_runs(architecture, layer, block)


def check_runs(architecture: Architecture, layer: LayerPlan, block: int) -> None:
    """The engine's rule: products with o and down take whole blocks of columns, from a block's
    start."""
    group = architecture.heads_per_kv * architecture.head_dim
    assert layer.kv_heads >= 1 and layer.ff >= 1
    assert layer.ff % block == 0 or layer.ff == architecture.ff
    if layer.heads_per_kv == architecture.heads_per_kv:
        columns = layer.kv_heads * group
        assert columns % block == 0 or layer.kv_heads == architecture.num_kv_heads
    else:
        assert layer.heads_per_kv * architecture.head_dim % block == 0
        assert group % block == 0


def test_steps_of_one_cost_go_from_the_least_worth_up() -> None:
    """Neurons worth less the later they come: then what goes first is the best choice there is."""
    narrowing = Narrowing(SMALL, 1, 1)
    full = Plan.full(SMALL)
    inner = Plan(tuple(replace(layer, ff=32) for layer in full.layers))
    generator = np.random.default_rng(2)
    per_step = -np.sort(-generator.random((3, 4)), axis=1)
    values = UnitScores.of_queries(np.zeros((3, 4, 1)), np.repeat(per_step, 32, axis=1) / 32)
    plans = [
        Plan(tuple(replace(one, ff=32 * n) for one, n in zip(full.layers, steps, strict=True)))
        for steps in product(range(1, 5), repeat=3)
    ]
    for dropped in range(1, 9):
        target = narrowing.cost(full) - dropped * (
            narrowing.cost(full) - narrowing.cost(replace_first(full, 96))
        )
        affordable = [plan for plan in plans if narrowing.cost(plan) <= target + 1e-12]
        best = max(affordable, key=lambda plan: worth(plan, per_step))
        assert narrowing.narrow(full, inner, values, target + 1e-12) == best


def replace_first(plan: Plan, ff: int) -> Plan:
    return Plan((replace(plan.layers[0], ff=ff), *plan.layers[1:]))


def worth(plan: Plan, per_step: np.ndarray) -> float:
    return sum(
        float(steps[: layer.ff // 32].sum())
        for steps, layer in zip(per_step, plan.layers, strict=True)
    )


def test_a_dear_unit_before_cheap_ones_goes_with_them() -> None:
    neurons = np.zeros((3, 128))
    neurons[0, 96:], neurons[0, 64:96] = 1.0, -5.0  # together a gain
    neurons[1:] = 0.5
    values = UnitScores.of_queries(np.full((3, 4, 1), 9.0), neurons)
    narrowing, full = Narrowing(SMALL, 1, 1), Plan.full(SMALL)
    inner = Plan(tuple(replace(layer, ff=64) for layer in full.layers))
    target = narrowing.cost(full) - 1e-6
    assert narrowing.narrow(full, inner, values, target) == replace_first(full, 64)


def test_query_heads_go_before_groups_if_they_are_worth_less() -> None:
    architecture = replace(SMALL, num_heads=16, num_kv_heads=4)
    queries = np.ones((3, 4, 4))
    queries[1, :, 3] = 0.0
    values = UnitScores.of_queries(queries, np.ones((3, 128)))
    narrowing, full = Narrowing(architecture, 16, 16), Plan.full(architecture)
    inner = narrowing.tails_dropped(full)
    plan = narrowing.narrow(full, inner, values, narrowing.cost(full) - 1e-6)
    assert [layer.heads_per_kv for layer in plan.layers] == [4, 3, 4]
    assert {layer.kv_heads for layer in plan.layers} == {4}
    # A head's columns that are no whole block cannot be left out.
    inner = Narrowing(architecture, 32, 32).tails_dropped(full)
    assert {layer.heads_per_kv for layer in inner.layers} == {2}


def test_costs_are_the_bundles() -> None:
    plan = Plan((LayerPlan(2, 1, 64), LayerPlan(4, 1, 96), LayerPlan(1, 1, 32)))
    assert Narrowing(SMALL, 1, 1).cost(plan) == pytest.approx(cost_ratio(SMALL, plan))
