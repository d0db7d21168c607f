import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.errors import SloError
from pliant.slo import (
    SAFETY_MARGIN,
    EncodeCost,
    LatencyModel,
    Limits,
    Slo,
    choose,
    resolve,
)
from support.synthetic_latency import flat_level, make_latency, make_level

LATENCY = make_latency()
LEVELS = [make_level(ratio) for ratio in LATENCY.ratios]

shares = st.floats(0.01, 1)
times_ms = st.floats(0.01, 1000)
slos = st.builds(
    lambda ttft, tpot, is_ttft_ms, is_tpot_ms: Slo(
        **{"ttft_ms" if is_ttft_ms else "ttft": ttft * (1000 if is_ttft_ms else 1)},
        **{"tpot_ms" if is_tpot_ms else "tpot": tpot * (50 if is_tpot_ms else 1)},
    ),
    shares,
    shares,
    st.booleans(),
    st.booleans(),
)
prompts = st.integers(1, 900)


def _random_latency(steps: list[tuple[float, float]], monotone: bool) -> LatencyModel:
    """Levels with the given (ms per prompt token, ms per step), sorted if `monotone`."""
    columns = [sorted(c) if monotone else list(c) for c in zip(*steps, strict=True)]
    rows = list(zip(*columns, strict=True))
    ratios = [(i + 1) / len(rows) for i in range(len(rows))]
    levels = (flat_level(r, a, b) for r, (a, b) in zip(ratios, rows, strict=True))
    return LatencyModel(tuple(levels), EncodeCost(), 512)


costs = st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 50)), min_size=1, max_size=9)


@pytest.mark.parametrize(
    ("slo", "expected"),
    [
        (Slo(), 1.0),
        (Slo(ttft=1.0, tpot=1.0), 1.0),
        (Slo(ttft=0.8), 0.7),
        (Slo(tpot=0.6), 0.5),
        (Slo(ttft=0.8, tpot=0.6), 0.5),
        (Slo(ttft=0.4, tpot=0.9), 0.3),
        (Slo(ttft_ms=1e6, tpot_ms=1e6), 1.0),
    ],
)
def test_the_largest_level_within_both_limits_is_chosen(slo: Slo, expected: float) -> None:
    strategy = choose(LATENCY, LEVELS, 300, slo, 32)
    assert (strategy.level, strategy.feasible, strategy.prompt_ratio) == (expected, True, 1.0)
    assert strategy.predicted_ttft_ms == LATENCY.predict_ttft(expected, 300)
    assert strategy.predicted_tpot_ms == LATENCY.predict_tpot(expected, 316)


@given(slos, prompts, costs)
def test_the_choice_is_feasible_whenever_any_level_is(
    slo: Slo, prompt_tokens: int, steps: list[tuple[float, float]]
) -> None:
    latency = _random_latency(steps, monotone=False)
    levels = [make_level(ratio) for ratio in latency.ratios]
    strategy = choose(latency, levels, prompt_tokens, slo, 32)
    limits = resolve(latency, prompt_tokens, slo, 32)
    fits = {
        ratio: limits.violation(
            latency.predict_ttft(ratio, prompt_tokens),
            latency.predict_tpot(ratio, prompt_tokens + 16),
        )
        * (1 + SAFETY_MARGIN)
        <= 1
        for ratio in latency.ratios
    }
    assert strategy.feasible == any(fits.values())
    if strategy.feasible:
        assert strategy.level == max(ratio for ratio, fit in fits.items() if fit)
        assert limits.met_by(strategy.predicted_ttft_ms, strategy.predicted_tpot_ms)


@given(shares, shares, shares, shares, prompts, costs)
def test_a_looser_slo_never_gets_a_smaller_level(
    ttft: float, tpot: float, more: float, longer: float, prompt_tokens: int,
    steps: list[tuple[float, float]],
) -> None:  # fmt: skip
    latency = _random_latency(steps, monotone=True)
    levels = [make_level(ratio) for ratio in latency.ratios]
    tight = choose(latency, levels, prompt_tokens, Slo(ttft=ttft, tpot=tpot), 32)
    looser = Slo(ttft=min(1, ttft + more), tpot=min(1, tpot + longer))
    assert choose(latency, levels, prompt_tokens, looser, 32).level >= tight.level


def test_best_effort_gives_the_closest_level_and_says_so() -> None:
    strategy = choose(LATENCY, LEVELS, 300, Slo(ttft=0.05), 32)
    assert (strategy.level, strategy.feasible) == (0.2, False)


def test_closest_looks_at_the_worse_side() -> None:
    latency = LatencyModel((flat_level(0.5, 1, 9), flat_level(1.0, 2, 4)), EncodeCost(), 512)
    levels = [make_level(0.5), make_level(1.0)]
    assert choose(latency, levels, 10, Slo(ttft_ms=8, tpot_ms=2), 1).level == 1.0
    assert choose(latency, levels, 10, Slo(ttft_ms=1, tpot_ms=2), 1).level == 0.5


@given(slos, prompts, costs)
def test_strict_names_an_slo_that_can_be_met(
    slo: Slo, prompt_tokens: int, steps: list[tuple[float, float]]
) -> None:
    latency = _random_latency(steps, monotone=False)
    levels = [make_level(ratio) for ratio in latency.ratios]
    if choose(latency, levels, prompt_tokens, slo, 32).feasible:
        assert choose(latency, levels, prompt_tokens, slo, 32, policy="strict").feasible
        return
    with pytest.raises(SloError, match="smallest SLO that can be met") as raised:
        choose(latency, levels, prompt_tokens, slo, 32, policy="strict")
    named = dict(re.findall(r"(t\w+)=([\d.e+-]+)", str(raised.value)))
    reachable = Slo(**{key: float(value) for key, value in named.items()})
    assert choose(latency, levels, prompt_tokens, reachable, 32, policy="strict").feasible


def test_strict_message() -> None:
    with pytest.raises(SloError, match=r"<5%,-> for a prompt of 300 .* ttft=0\.225 \(level 0\.2\)"):
        choose(LATENCY, LEVELS, 300, Slo(ttft=0.05), 32, policy="strict")


def test_relative_limits_are_shares_of_the_full_model() -> None:
    limits = resolve(LATENCY, 300, Slo(ttft=0.5, tpot=0.25), 32)
    assert limits.ttft_ms == pytest.approx(0.5 * LATENCY.predict_ttft(1.0, 300))
    assert limits.tpot_ms == pytest.approx(0.25 * LATENCY.predict_tpot(1.0, 316))


def test_limits_judge_measurements() -> None:
    limits = Limits(ttft_ms=100, tpot_ms=10)
    assert limits.met_by(100, 10)
    assert not limits.met_by(100.1, 10)
    assert not limits.met_by(100, 10.1)
    assert limits.met_by(50, None)
    assert Limits(None, None).met_by(1e9, 1e9)
