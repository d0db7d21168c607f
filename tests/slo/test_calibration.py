from dataclasses import replace
from typing import Any

import pytest

from pliant.slo import EncodeCost, LatencyModel, calibrate


@pytest.fixture(autouse=True)
def _encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured with a real tokenizer in test_encoding.py."""
    monkeypatch.setattr(
        "pliant.slo.calibration.measure_encoding", lambda model: model.engine.truth.encoding
    )


def _check_recovered(
    measured: LatencyModel, truth: LatencyModel, slowness: float = 1.0, rel: float = 2e-3
) -> None:
    assert measured.ratios == truth.ratios
    for ratio in truth.ratios:
        for tokens in (20, 100, 600):
            expected = _forward_ms(truth, ratio, tokens) * slowness
            assert _forward_ms(measured, ratio, tokens) == pytest.approx(expected, rel=rel)
            expected = truth.predict_tpot(ratio, tokens) * slowness
            assert measured.predict_tpot(ratio, tokens) == pytest.approx(expected, rel=rel)


def _forward_ms(latency: LatencyModel, ratio: float, tokens: int) -> float:
    return replace(latency, encoding=EncodeCost()).predict_ttft(ratio, tokens)


def test_the_costs_of_a_small_model_are_recovered(fake_model: Any) -> None:
    measured = calibrate(fake_model, clock=fake_model.engine.clock)
    _check_recovered(measured, fake_model.engine.truth)
    assert fake_model.engine.now <= 15


def test_a_big_model_is_interpolated_between_fewer_levels(fake_model: Any) -> None:
    fake_model.engine.slowness = 20
    measured = calibrate(fake_model, clock=fake_model.engine.clock)
    _check_recovered(measured, fake_model.engine.truth, slowness=20)
    assert {ratio for ratio, _, _ in fake_model.engine.calls} == {0.2, 0.6, 1.0}
    assert fake_model.engine.now <= 15


def test_levels_are_interleaved_and_repeated(fake_model: Any) -> None:
    calibrate(fake_model, budget_s=30, clock=fake_model.engine.clock)
    calls = [call for call in fake_model.engine.calls if call[1] > 500]
    assert [ratio for ratio, _, _ in calls[:18]] == [*fake_model.engine.truth.ratios] * 2
    assert {tokens for _, tokens, _ in calls[:18]} == {512, 511}


def test_a_short_context_is_respected(fake_model: Any) -> None:
    fake_model.engine.context_length = 64
    measured = calibrate(fake_model, clock=fake_model.engine.clock)
    expected = fake_model.engine.truth.predict_ttft(0.5, 40)
    assert measured.predict_ttft(0.5, 40) == pytest.approx(expected, rel=2e-3)


def test_single_slow_passes_do_not_move_the_medians(fake_model: Any) -> None:
    engine = fake_model.engine
    forward = engine.forward

    def sometimes_slow(plan: Any, spans: Any) -> None:
        before = engine.now
        forward(plan, spans)
        if len(engine.calls) % 11 == 0:
            engine.now += 20 * (engine.now - before)

    engine.forward = sometimes_slow
    _check_recovered(calibrate(fake_model, 60, clock=engine.clock), engine.truth, rel=0.05)
