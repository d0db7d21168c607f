"""`Limits`: an SLO in milliseconds for one request, and what misses it."""

import math
from dataclasses import dataclass

from pliant.slo.latency import LatencyModel
from pliant.slo.slo import Slo


@dataclass(frozen=True)
class Limits:
    """An SLO in milliseconds for one request; None sets no limit.

    `full_ttft_ms` and `full_tpot_ms` are what the full model takes for the full prompt.
    """

    ttft_ms: float | None
    tpot_ms: float | None
    full_ttft_ms: float = math.nan
    full_tpot_ms: float = math.nan

    @property
    def are_none(self) -> bool:
        return self.ttft_ms is None and self.tpot_ms is None

    @property
    def ttft_share(self) -> float | None:
        """The limit as a share of the full model's, at most 1; None without a limit."""
        return _share(self.ttft_ms, self.full_ttft_ms)

    @property
    def tpot_share(self) -> float | None:
        return _share(self.tpot_ms, self.full_tpot_ms)

    def violation(self, ttft_ms: float, tpot_ms: float | None) -> float:
        """The worse side's latency as a multiple of its limit; 0 without limits.

        `tpot_ms` is None for an answer of one token, which has no TPOT to miss.
        """
        return max(_multiple(ttft_ms, self.ttft_ms), _multiple(tpot_ms, self.tpot_ms))

    def met_by(self, ttft_ms: float, tpot_ms: float | None) -> bool:
        """Whether measured latencies keep to the limits."""
        return self.violation(ttft_ms, tpot_ms) <= 1


def resolve(
    latency: LatencyModel, prompt_tokens: int, slo: Slo, max_tokens: int, *, start: int = 0
) -> Limits:
    """The SLO's limits for a prompt of `prompt_tokens` behind `start` tokens of context.

    Shares are of what `latency`, the device as it was calibrated, says the full model takes: a
    machine that slows down does not loosen an SLO.
    """
    full = latency.ratios[-1]
    ttft_ms = latency.predict_ttft(full, prompt_tokens, start)
    tpot_ms = latency.predict_tpot(full, mean_kv(start + prompt_tokens, max_tokens))
    return Limits(
        _limit(slo.ttft, slo.ttft_ms, ttft_ms),
        _limit(slo.tpot, slo.tpot_ms, tpot_ms),
        ttft_ms,
        tpot_ms,
    )


def mean_kv(prompt_tokens: int, max_tokens: int) -> int:
    """KV length halfway through the longest answer: where its mean step is."""
    return prompt_tokens + max_tokens // 2


def _multiple(latency_ms: float | None, limit_ms: float | None) -> float:
    if not latency_ms or limit_ms is None:
        return 0.0
    return latency_ms / limit_ms if limit_ms > 0 else math.inf


def _limit(share: float | None, time_ms: float | None, full_ms: float) -> float | None:
    if share is None:
        return time_ms
    return None if share == 1 else share * full_ms


def _share(limit_ms: float | None, full_ms: float) -> float | None:
    return None if limit_ms is None else min(1.0, limit_ms / full_ms)
