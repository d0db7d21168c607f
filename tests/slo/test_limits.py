import pytest

from pliant.slo import Limits, Slo, resolve
from support.synthetic_latency import make_latency

LATENCY = make_latency()


def test_relative_limits_are_shares_of_the_full_model() -> None:
    limits = resolve(LATENCY, 300, Slo(ttft=0.5, tpot=0.25), 32)
    assert limits.ttft_ms == pytest.approx(0.5 * LATENCY.predict_ttft(1.0, 300))
    assert limits.tpot_ms == pytest.approx(0.25 * LATENCY.predict_tpot(1.0, 316))
    assert (limits.ttft_share, limits.tpot_share) == pytest.approx((0.5, 0.25))


def test_what_is_in_the_context_already_counts_for_the_full_model_too() -> None:
    limits = resolve(LATENCY, 300, Slo(ttft=0.5, tpot=0.5), 32, start=200)
    assert limits.ttft_ms == pytest.approx(0.5 * LATENCY.predict_ttft(1.0, 300, 200))
    assert limits.tpot_ms == pytest.approx(0.5 * LATENCY.predict_tpot(1.0, 516))


def test_a_share_of_one_and_no_share_set_no_limit() -> None:
    limits = resolve(LATENCY, 300, Slo(ttft=1.0), 32)
    assert limits.are_none
    assert limits.ttft_share is None and limits.tpot_share is None


def test_times_are_taken_as_they_are_and_told_as_shares() -> None:
    limits = resolve(LATENCY, 300, Slo(ttft_ms=3.0, tpot_ms=1e6), 32)
    assert (limits.ttft_ms, limits.tpot_ms) == (3.0, 1e6)
    assert limits.ttft_share == pytest.approx(3.0 / LATENCY.predict_ttft(1.0, 300))
    assert limits.tpot_share == 1.0


def test_limits_judge_measurements() -> None:
    limits = Limits(ttft_ms=100, tpot_ms=10)
    assert limits.met_by(100, 10)
    assert not limits.met_by(100.1, 10)
    assert not limits.met_by(100, 10.1)
    assert limits.met_by(50, None)
    assert Limits(None, None).met_by(1e9, 1e9)
