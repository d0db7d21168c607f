import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.errors import SloUnreachableError
from pliant.slo import Limits, Margins, OnlineLatency, Slo, Strategy, resolve
from pliant.slo.choice import choose_by_reading, choose_by_rule, closest, unreachable
from pliant.slo.grid import Work, make_grid
from pliant.tlm.model import Reading
from support.readers import PROMPT_RATIOS, FixedReader
from support.slos import costs, random_latency, slos
from support.synthetic_latency import RATIOS

GRID = tuple(
    Strategy(level, ratio, 9, 1.0, 1.0, 0.5) for level in RATIOS for ratio in PROMPT_RATIOS
)
pairs = st.sets(st.sampled_from(GRID), min_size=1).map(lambda found: tuple(found))
weights = st.floats(0, 1)


def _violating(*rows: tuple[float, float, float]) -> tuple[Strategy, ...]:
    return tuple(Strategy(level, ratio, 9, 1.0, 1.0, violation) for level, ratio, violation in rows)


def test_the_rule_makes_the_model_smaller_before_it_shortens() -> None:
    found = choose_by_rule(_violating((0.9, 0.5, 0), (0.3, 1.0, 0), (0.4, 1.0, 0), (1.0, 0.9, 0)))
    assert (found.level, found.prompt_ratio) == (0.4, 1.0)


@given(
    pairs, st.lists(weights, min_size=9, max_size=9), st.lists(weights, min_size=10, max_size=10)
)
def test_the_heads_choose_the_largest_product(
    candidates: tuple[Strategy, ...], levels: list[float], ratios: list[float]
) -> None:
    reading = Reading((), tuple(ratios), tuple(levels))
    found, share = choose_by_reading(candidates, FixedReader(), reading)

    def product(s: Strategy) -> float:
        return levels[RATIOS.index(s.level)] * ratios[PROMPT_RATIOS.index(s.prompt_ratio)]

    assert product(found) == max(map(product, candidates))
    assert 0 < share <= 1 + 1e-9
    if sum(map(product, candidates)) > 0:
        assert share == pytest.approx(product(found) / sum(map(product, candidates)))


@given(pairs, pairs, st.sampled_from(RATIOS), st.sampled_from(PROMPT_RATIOS))
def test_more_to_choose_from_is_never_worse(
    some: tuple[Strategy, ...], others: tuple[Strategy, ...], level: float, ratio: float
) -> None:
    reader = FixedReader(level, ratio)
    reading = reader.read("")

    def worth(candidates: tuple[Strategy, ...]) -> float:
        found, _ = choose_by_reading(candidates, reader, reading)
        return (
            reading.levels[RATIOS.index(found.level)]
            * reading.prompt_ratios[PROMPT_RATIOS.index(found.prompt_ratio)]
        )

    assert worth((*some, *others)) >= worth(some)


def test_a_forced_ratio_leaves_the_level_to_its_head() -> None:
    candidates = tuple(Strategy(level, 0.37, 9, 1.0, 1.0, 0.5) for level in RATIOS)
    reader = FixedReader(level=0.4)
    found, _ = choose_by_reading(candidates, reader, reader.read(""))
    assert (found.level, found.prompt_ratio) == (0.4, 0.37)


def test_closest_are_those_that_miss_least() -> None:
    candidates = _violating((0.2, 0.1, 2.0), (0.2, 1.0, 2.18), (0.3, 0.1, 2.3), (0.4, 1.0, 9))
    assert closest(candidates) == candidates[:2]


@given(slos, st.integers(1, 900), costs)
def test_the_smallest_slo_that_is_named_can_be_met(
    slo: Slo, tokens: int, steps: list[tuple[float, float]]
) -> None:
    base = random_latency(steps)
    online = OnlineLatency(base)
    work = Work(tokens, 32)

    def grid(slo: Slo) -> tuple[Limits, tuple[Strategy, ...]]:
        limits = resolve(base, tokens, slo, 32)
        return limits, make_grid(online, work, base.ratios, PROMPT_RATIOS, limits)

    limits, candidates = grid(slo)
    if any(s.feasible for s in candidates):
        return
    error = unreachable(candidates, slo, limits, online.margins, tokens)
    reachable = Slo(**error.reachable)
    _, candidates = grid(reachable)
    assert any(s.feasible for s in candidates)
    again = Slo.parse(**reachable.texts())
    assert (again.ttft_ms, again.tpot_ms) == (reachable.ttft_ms, reachable.tpot_ms)
    named = dict(re.findall(r"(t\w+)=([\d.e+-]+)", str(error)))
    assert {name: float(value) for name, value in named.items()} == error.reachable


def test_a_side_that_is_met_stays_as_it_was_asked() -> None:
    limits = Limits(10.0, 50.0, 100.0, 100.0)
    candidates = (Strategy(0.2, 0.1, 30, 20.0, 10.0, 2.2),)
    slo = Slo(ttft_ms=10.0, tpot=0.5)
    with pytest.raises(SloUnreachableError) as raised:
        raise unreachable(candidates, slo, limits, Margins(0.1, 0.1), 300)
    assert raised.value.reachable == {"ttft_ms": 22.1, "tpot": 0.5}
    assert str(raised.value) == (
        "no strategy is predicted to meet <10ms,50%> for a prompt of 300 tokens (closest: level "
        "0.2, 10% of the prompt); the smallest SLO that can be met is ttft_ms=22.1, tpot=0.5"
    )
