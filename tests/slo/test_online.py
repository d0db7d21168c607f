"""The online model against simulated machines: idle, restless, slowing down and recovering."""

from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.slo.latency import LatencyModel
from pliant.slo.online import OnlineLatency
from support.machine import Machine
from support.synthetic_latency import RATIOS, make_latency

SEEDS = range(8)


def test_before_any_request_it_predicts_as_calibrated() -> None:
    base = make_latency()
    online = OnlineLatency(base)
    for level in RATIOS:
        assert online.predict_ttft(level, 300, 10) == base.predict_ttft(level, 300, 10)
        assert online.predict_tpot(level, 300) == base.predict_tpot(level, 300)
    assert 0.05 < online.margins.ttft == online.margins.tpot < 0.12
    assert online.errors() == ()


@pytest.mark.parametrize("seed", SEEDS)
def test_an_idle_machine_keeps_its_predictions(seed: int) -> None:
    machine = Machine(seed)
    requests = machine.run(300)
    assert machine.worst_error() < 0.05
    assert mean(ratio <= 1 + margin for ratio, margin in requests) > 0.95
    assert 0.03 < machine.online.margins.ttft < 0.15


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("slowness", [1.25, 1.8, 5.0])
def test_a_slow_down_is_known_at_every_level_within_ten_requests(
    seed: int, slowness: float
) -> None:
    machine = Machine(seed)
    machine.run(100)
    machine.slowness = slowness
    for _ in range(10):
        machine.request(0.5)
    assert machine.worst_error() < 0.12
    machine.slowness = 1.0
    for _ in range(10):
        machine.request(0.8)
    assert machine.worst_error() < 0.12


@pytest.mark.parametrize("seed", SEEDS)
def test_few_requests_are_late_while_it_adapts(seed: int) -> None:
    """From 100 idle requests to 100 on a machine that is twice as slow."""
    machine = Machine(seed)
    machine.run(100)
    machine.slowness = 2.0
    late = [ratio > 1 + margin for ratio, margin in machine.run(100)]
    assert all(late[:3])
    assert sum(late[3:]) <= 8


@pytest.mark.parametrize("seed", SEEDS)
def test_single_outliers_move_neither_factor_nor_margin_much(seed: int) -> None:
    quiet = Machine(seed)
    quiet.run(60)
    factor, margin = quiet.online.ttft_factor(0.5), quiet.online.margins.ttft
    quiet.online.observe_ttft(0.5, 10.0, 100.0)
    assert quiet.online.ttft_factor(0.5) == pytest.approx(factor, rel=0.02)
    assert quiet.online.margins.ttft < margin + 0.05


@pytest.mark.parametrize("seed", SEEDS)
def test_factors_hold_among_outliers(seed: int) -> None:
    """Outliers in a row are taken for a change, and unlearned as fast."""
    machine = Machine(seed, outlier_rate=0.05)
    machine.run(50)
    errors = []
    for _ in range(200):
        machine.request()
        errors.append(machine.worst_error())
    assert mean(error < 0.1 for error in errors) > 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_what_one_level_always_does_is_learned_for_it_alone(seed: int) -> None:
    machine = Machine(seed, noise=0.02, bias={0.3: 1.15, 0.9: 0.9})
    machine.run(300)
    assert machine.worst_error() < 0.06


@pytest.mark.parametrize("seed", SEEDS)
def test_the_margin_follows_the_noise(seed: int) -> None:
    still, restless = Machine(seed, noise=0.01), Machine(seed, noise=0.15)
    still.run(200)
    requests = restless.run(400)[200:]
    assert still.online.margins.ttft < 0.06 < 0.2 < restless.online.margins.ttft
    assert mean(ratio <= 1 + margin for ratio, margin in requests) > 0.93


def test_a_slow_drift_is_followed() -> None:
    machine = Machine(1)
    late = 0
    for _ in range(300):
        machine.slowness *= 1.003
        ratio, margin = machine.request()
        late += ratio > 1 + margin
    assert machine.worst_error() < 0.15
    assert late <= 15


def test_errors_are_reported_per_side_and_level() -> None:
    online = OnlineLatency(make_latency())
    for _ in range(9):
        online.observe_ttft(0.5, 10.0, 10.0)
    online.observe_ttft(0.5, 10.0, 15.0)
    online.observe_tpot(1.0, 2.0, 1.9)
    first, second = online.errors()
    assert (first.side, first.level, first.count) == ("tpot", 1.0, 1)
    assert first.bias == pytest.approx(-0.05) and first.p99 == pytest.approx(0.05)
    assert (second.side, second.level, second.count) == ("ttft", 0.5, 10)
    assert (second.bias, second.median) == (0, 0)
    assert second.p99 == pytest.approx(0.5)


def test_times_of_nothing_are_not_learned_from() -> None:
    online = OnlineLatency(make_latency())
    online.observe_ttft(0.5, 0.0, 1.0)
    online.observe_ttft(0.5, 1.0, 0.0)
    assert online.errors() == ()


@given(st.lists(st.tuples(st.sampled_from(RATIOS), st.floats(1e-3, 1e3)), max_size=120))
@settings(max_examples=50)
def test_whatever_is_measured_predictions_stay_positive_and_within_what_was_seen(
    requests: list[tuple[float, float]],
) -> None:
    online = OnlineLatency(make_latency())
    for level, ratio in requests:
        online.observe_ttft(level, 10.0, 10.0 * ratio)
    seen = [1.0, *(ratio for _, ratio in requests)]
    spread = max(seen) / min(seen)
    for level in RATIOS:
        assert min(seen) / spread <= online.ttft_factor(level) <= max(seen) * spread
    assert online.margins.ttft >= 0.02
    assert isinstance(online.base, LatencyModel)
