"""Which level answers a call of a context, when the caller gave an SLO."""

from collections.abc import Callable
from typing import Protocol

from pliant.slo.latency import LatencyModel
from pliant.slo.slo import Slo
from pliant.slo.strategy import SAFETY_MARGIN, Limits, mean_kv


class Chooser(Protocol):
    """Chooses with both costs in view: what a level takes to restore, and to answer."""

    def choose(
        self,
        slo: Slo,
        *,
        new_tokens: int,
        context_tokens: int,
        max_tokens: int,
        restore_ms: Callable[[float], float],
    ) -> float:
        """A level's ratio."""


class LatencyChooser:
    """The largest level that meets the SLO; when none does, the one that is closest to it.

    Shares are of what the full model takes for the same call, its restore included.
    """

    def __init__(self, latency: LatencyModel) -> None:
        self._latency = latency

    def choose(
        self,
        slo: Slo,
        *,
        new_tokens: int,
        context_tokens: int,
        max_tokens: int,
        restore_ms: Callable[[float], float],
    ) -> float:
        latency = self._latency
        kv_tokens = mean_kv(context_tokens + new_tokens, max_tokens)
        predicted = {
            ratio: (
                restore_ms(ratio) + latency.predict_ttft(ratio, new_tokens, context_tokens),
                latency.predict_tpot(ratio, kv_tokens),
            )
            for ratio in latency.ratios
        }
        ttft_ms, tpot_ms = predicted[latency.ratios[-1]]
        limits = Limits(
            _limit(slo.ttft, slo.ttft_ms, ttft_ms), _limit(slo.tpot, slo.tpot_ms, tpot_ms)
        )
        violations = {ratio: limits.violation(*times) for ratio, times in predicted.items()}
        met = [ratio for ratio, v in violations.items() if v * (1 + SAFETY_MARGIN) <= 1]
        return max(met) if met else min(violations, key=lambda ratio: (violations[ratio], ratio))


def _limit(share: float | None, time_ms: float | None, full_ms: float) -> float | None:
    if share is None:
        return time_ms
    return None if share == 1 else share * full_ms
