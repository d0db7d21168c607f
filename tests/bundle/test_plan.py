"""Plans: bounds, nesting, JSON; and what they cost."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.bundle import (
    LayerPlan,
    Level,
    Plan,
    check_levels,
    cost_ratio,
    per_token_cost,
)
from pliant.errors import PlanError
from support.architectures import LLAMA_1B, SMALL

LAYERS = st.builds(
    LayerPlan,
    st.integers(0, 4),
    st.integers(1, 2),
    st.one_of(st.integers(0, 6).map(lambda n: 32 * n), st.just(200)),
)
PLANS = st.lists(LAYERS, min_size=3, max_size=3).map(lambda layers: Plan(tuple(layers)))


def level(ratio: float, plan: Plan) -> Level:
    return Level(ratio, plan, cost_ratio(SMALL, plan))


def uniform(kv_heads: int, heads_per_kv: int, ff: int) -> Plan:
    return Plan((LayerPlan(kv_heads, heads_per_kv, ff),) * 3)


FULL = uniform(4, 2, 200)


def test_the_full_plan() -> None:
    assert Plan.full(SMALL) == FULL
    assert cost_ratio(SMALL, FULL) == 1.0


@given(plan=PLANS)
def test_plans_are_valid_and_round_trip(plan: Plan) -> None:
    plan.validate(SMALL)
    copy = Plan.from_json(plan.to_json())
    assert copy == plan
    assert hash(copy) == hash(plan)
    assert plan.fits_in(FULL)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (LayerPlan(5, 2, 200), r"layer 1: kv_heads is 5, it must be in 0\.\.4"),
        (LayerPlan(-1, 2, 200), "kv_heads is -1"),
        (LayerPlan(4, 3, 200), "heads_per_kv is 3"),
        (LayerPlan(4, 0, 200), "no query head"),
        (LayerPlan(4, 2, 232), "ff is 232"),
        (LayerPlan(4, 2, 100), "multiple of 32 or 200"),
    ],
)
def test_invalid_layers(layer: LayerPlan, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan((FULL.layers[0], layer, FULL.layers[0])).validate(SMALL)


def test_wrong_number_of_layers() -> None:
    with pytest.raises(PlanError, match="2 layers, the model 3"):
        Plan(FULL.layers[:2]).validate(SMALL)


@pytest.mark.parametrize(
    "value", [None, {}, [1], [[1, 2]], [[1, 2, 3.0]], [[1, 2, True]], [[1, 2, "3"]], "abc"]
)
def test_from_json_refuses(value: object) -> None:
    with pytest.raises(PlanError):
        Plan.from_json(value)


def test_cost_without_context_is_the_number_of_weights() -> None:
    # Llama-3.2-1B has 1,235,814,400 parameters (its model card), 2 norms a layer and a last one.
    weights = 1_235_814_400 - 2048 * (2 * 16 + 1)
    assert per_token_cost(LLAMA_1B, Plan.full(LLAMA_1B), context=0) == weights


def test_cost_counts_every_part() -> None:
    plan = Plan((LayerPlan(1, 2, 32), LayerPlan(0, 2, 64), LayerPlan(2, 1, 0)))
    head = 64 * 100
    first = 64 * 32 * 2 + 64 * 16 * 2 + 3 * 64 * 32 + 2 * 10 * 32
    second = 3 * 64 * 64
    third = 64 * 32 * 4 + 2 * 10 * 32
    assert per_token_cost(SMALL, plan, context=10) == head + first + second + third
    lora_first = 2 * (64 + 32) + 2 * (64 + 16) + 3 * (64 + 32)
    lora_second = 3 * (64 + 64)
    lora_third = 4 * (64 + 32)
    assert per_token_cost(SMALL, plan, context=10, lora_rank=8) == head + first + second + third + (
        8 * (lora_first + lora_second + lora_third)
    )


@given(first=PLANS, second=PLANS)
def test_a_part_costs_no_more(first: Plan, second: Plan) -> None:
    if first.fits_in(second):
        assert cost_ratio(SMALL, first) <= cost_ratio(SMALL, second)
    meet = Plan(
        tuple(
            LayerPlan(
                min(a.kv_heads, b.kv_heads), min(a.heads_per_kv, b.heads_per_kv), min(a.ff, b.ff)
            )
            for a, b in zip(first.layers, second.layers, strict=True)
        )
    )
    assert meet.fits_in(first)
    assert meet.fits_in(second)
    assert 0 < cost_ratio(SMALL, meet) <= min(cost_ratio(SMALL, first), cost_ratio(SMALL, second))


def test_levels_that_belong_together() -> None:
    check_levels(SMALL, [level(1.0, FULL)])
    check_levels(
        SMALL, [level(0.2, uniform(0, 1, 32)), level(0.5, uniform(2, 1, 96)), level(1.0, FULL)]
    )


HALF = uniform(2, 2, 96)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([], "last level"),
        ([level(0.5, HALF)], "last level"),
        ([level(1.0, HALF)], "last level"),
        ([level(0.9, FULL)], "last level"),
        ([level(0.0, HALF), level(1.0, FULL)], "0 < ratio"),
        ([level(float("nan"), HALF), level(1.0, FULL)], "0 < ratio"),
        ([level(0.5, HALF), level(0.4, HALF), level(1.0, FULL)], "do not ascend"),
        ([level(1.0, HALF), level(1.0, FULL)], "do not ascend"),
        ([level(0.4, uniform(1, 2, 128)), level(0.5, HALF), level(1.0, FULL)], "not a part"),
        ([level(0.4, uniform(3, 1, 96)), level(0.5, HALF), level(1.0, FULL)], "not a part"),
        ([level(0.5, uniform(2, 2, 95)), level(1.0, FULL)], "multiple of 32"),
        ([replace(level(0.5, HALF), cost=0.5), level(1.0, FULL)], "its cost is"),
        ([replace(level(0.5, HALF), cost=float("nan")), level(1.0, FULL)], "its cost is"),
        ([replace(level(0.5, HALF), adapter="a.gguf"), level(1.0, FULL)], "its adapter"),
    ],
)
def test_levels_that_do_not(levels: list[Level], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_levels(SMALL, levels)
