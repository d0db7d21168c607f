from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.errors import RequestError
from pliant.slo import EncodeCost, Limits, OnlineLatency, Slo, State, Strategy, resolve
from pliant.slo.grid import Work, make_grid
from support.readers import PROMPT_RATIOS
from support.slos import costs, random_latency, shares
from support.synthetic_latency import RATIOS, make_latency

BASE = replace(make_latency(), reading=EncodeCost(1.0, 0.01), compressing=EncodeCost(0.5, 0.002))
NONE = Limits(None, None)


def _grid(work: Work, limits: Limits = NONE, **online: float) -> tuple[Strategy, ...]:
    return make_grid(OnlineLatency(BASE), work, RATIOS, PROMPT_RATIOS, limits)


def test_every_pair_has_its_place() -> None:
    pairs = [(s.level, s.prompt_ratio) for s in _grid(Work(300, 32))]
    assert pairs == [(level, ratio) for level in RATIOS for ratio in PROMPT_RATIOS]


def test_whole_prompts_take_what_the_calibration_says() -> None:
    for s in make_grid(OnlineLatency(BASE), Work(300, 32), RATIOS, (1.0,), NONE):
        assert s.predicted_ttft_ms == pytest.approx(BASE.predict_ttft(s.level, 300))
        assert s.predicted_tpot_ms == pytest.approx(BASE.predict_tpot(s.level, 316))
        assert (s.prompt_tokens, s.feasible) == (300, True)


def test_shortened_prompts_pay_for_the_tlm_and_for_what_is_left() -> None:
    work = Work(300, 32, is_read=True)
    for s in _grid(work):
        tokens = round(s.prompt_ratio * 300)
        before_ms = (0.25 + 0.3) + (1.0 + 3.0) + (0.5 + 0.6)
        expected_ms = BASE.predict_ttft(s.level, tokens) + before_ms
        assert s.prompt_tokens == tokens
        assert s.predicted_ttft_ms == pytest.approx(expected_ms)
        assert s.predicted_tpot_ms == pytest.approx(BASE.predict_tpot(s.level, tokens + 16))


def test_what_is_protected_is_paid_for_at_every_ratio() -> None:
    tokens = [s.prompt_tokens for s in _grid(Work(300, 32, min_tokens=170))[:10]]
    assert tokens == [170, 170, 170, 170, 170, 180, 210, 240, 270, 300]
    assert {s.prompt_tokens for s in _grid(Work(1, 32, min_tokens=1))} == {1}


def test_queue_restore_and_context_delay_the_first_token() -> None:
    state = State(context_tokens=200, queue_ms=7.0, restore_ms=lambda level: 10 * level)
    for s in make_grid(OnlineLatency(BASE), Work(300, 32, state=state), RATIOS, (1.0,), NONE):
        expected_ms = BASE.predict_ttft(s.level, 300, 200) + 7.0 + 10 * s.level
        assert s.predicted_ttft_ms == pytest.approx(expected_ms)
        assert s.predicted_tpot_ms == pytest.approx(BASE.predict_tpot(s.level, 516))
    assert State(restore_ms=3.0).wait_ms(0.5) == 3.0


def test_restores_take_what_restores_took() -> None:
    online = OnlineLatency(BASE)
    for _ in range(10):
        online.observe_restore(0.5, 10.0, 30.0)
    state = State(queue_ms=7.0, restore_ms=10.0)
    for s in make_grid(online, Work(300, 32, state=state), RATIOS, (1.0,), NONE):
        expected_ms = BASE.predict_ttft(s.level, 300) + 7.0 + 30.0
        assert s.predicted_ttft_ms == pytest.approx(expected_ms, rel=1e-6)
    assert [report.side for report in online.errors()] == ["restore"]


@pytest.mark.parametrize(
    "wrong", [{"context_tokens": -1}, {"queue_ms": float("nan")}, {"restore_ms": -0.5}]
)
def test_states_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=f"{next(iter(wrong))} is"):
        State(**wrong)  # type: ignore[arg-type]


def test_a_slow_machine_slows_what_it_computes_but_not_the_queue() -> None:
    online = OnlineLatency(BASE)
    for _ in range(10):
        online.observe_ttft(0.5, 10.0, 20.0)
        online.observe_tpot(0.5, 10.0, 30.0)
    work = Work(300, 32, state=State(queue_ms=5.0))
    for before, after in zip(
        make_grid(OnlineLatency(BASE), work, RATIOS, (1.0,), NONE),
        make_grid(online, work, RATIOS, (1.0,), NONE),
        strict=True,
    ):
        assert after.predicted_ttft_ms - 5 == pytest.approx(2 * (before.predicted_ttft_ms - 5))
        assert after.predicted_tpot_ms == pytest.approx(3 * before.predicted_tpot_ms)


def test_feasible_leaves_the_margin() -> None:
    online = OnlineLatency(BASE)
    ttft_ms = BASE.predict_ttft(1.0, 300)
    for limit_ms, expected in ((1.01, False), (1 + 1.001 * online.margins.ttft, True)):
        limits = Limits(ttft_ms * limit_ms, None)
        (s,) = make_grid(online, Work(300, 32), (1.0,), (1.0,), limits)
        assert s.feasible is expected


@given(shares, shares, shares, shares, st.integers(1, 900), st.integers(0, 900), costs)
def test_a_looser_slo_has_all_that_a_tighter_one_had(
    ttft: float, tpot: float, more: float, longer: float, tokens: int, floor: int,
    steps: list[tuple[float, float]],
) -> None:  # fmt: skip
    base = random_latency(steps)
    work = Work(tokens, 32, min_tokens=min(floor, tokens), is_read=True)
    feasible = []
    for slo in (Slo(ttft, tpot), Slo(min(1, ttft + more), min(1, tpot + longer))):
        limits = resolve(base, tokens, slo, 32)
        grid = make_grid(OnlineLatency(base), work, base.ratios, PROMPT_RATIOS, limits)
        feasible.append({(s.level, s.prompt_ratio) for s in grid if s.feasible})
        for s in grid:
            if s.feasible:
                assert limits.met_by(s.predicted_ttft_ms, s.predicted_tpot_ms)
    assert feasible[0] <= feasible[1]
