"""Choose the level of a request from its SLO and the latency model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pliant.bundle.plan import Level
from pliant.errors import SloError
from pliant.slo.latency import LatencyModel
from pliant.slo.slo import Slo

SAFETY_MARGIN = 0.05
"""A level counts as meeting a limit when its prediction, 5% added, is within it."""

Policy = Literal["best_effort", "strict"]


@dataclass(frozen=True)
class Strategy:
    """What will be run: a level and the share of the prompt, with its predicted latencies.

    `feasible` is False when no level was predicted to meet the SLO and this is the closest.
    """

    level: float
    predicted_ttft_ms: float
    predicted_tpot_ms: float
    feasible: bool
    prompt_ratio: float = 1.0


@dataclass(frozen=True)
class Limits:
    """An SLO in milliseconds for one request; None sets no limit."""

    ttft_ms: float | None
    tpot_ms: float | None

    def violation(self, ttft_ms: float, tpot_ms: float | None) -> float:
        """The worse side's latency as a multiple of its limit; 0 without limits.

        `tpot_ms` is None for an answer of one token, which has no TPOT to miss.
        """
        return max(_multiple(ttft_ms, self.ttft_ms), _multiple(tpot_ms, self.tpot_ms))

    def met_by(self, ttft_ms: float, tpot_ms: float | None) -> bool:
        """Whether measured latencies keep to the limits."""
        return self.violation(ttft_ms, tpot_ms) <= 1


def resolve(latency: LatencyModel, prompt_tokens: int, slo: Slo, max_tokens: int) -> Limits:
    """The SLO's limits for this prompt; shares are of the full model's predicted latencies."""
    kv_tokens = mean_kv(prompt_tokens, max_tokens)
    full = latency.ratios[-1]
    return Limits(
        _limit(slo.ttft, slo.ttft_ms, latency.predict_ttft(full, prompt_tokens)),
        _limit(slo.tpot, slo.tpot_ms, latency.predict_tpot(full, kv_tokens)),
    )


def choose(
    latency: LatencyModel,
    levels: Sequence[Level],
    prompt_tokens: int,
    slo: Slo,
    max_tokens: int,
    *,
    policy: Policy = "best_effort",
) -> Strategy:
    """The largest level predicted to meet both sides of the SLO with `SAFETY_MARGIN` to spare.

    When none does: `best_effort` gives the closest level, flagged; `strict` raises SloError
    naming the smallest SLO that can be met for this prompt.
    """
    limits = resolve(latency, prompt_tokens, slo, max_tokens)
    kv_tokens = mean_kv(prompt_tokens, max_tokens)
    strategies = [
        _strategy(latency, limits, level.ratio, prompt_tokens, kv_tokens) for level in levels
    ]
    feasible = [s for s in strategies if s.feasible]
    if feasible:
        return max(feasible, key=lambda s: s.level)
    # On a tie the smaller level: so a looser SLO never leads to a smaller level.
    closest = min(strategies, key=lambda s: (_violation(limits, s), s.level))
    if policy == "strict":
        raise SloError(_unreachable(latency, slo, limits, closest, prompt_tokens, kv_tokens))
    return closest


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


def _strategy(
    latency: LatencyModel, limits: Limits, ratio: float, prompt_tokens: int, kv_tokens: int
) -> Strategy:
    ttft_ms = latency.predict_ttft(ratio, prompt_tokens)
    tpot_ms = latency.predict_tpot(ratio, kv_tokens)
    feasible = limits.violation(ttft_ms, tpot_ms) * (1 + SAFETY_MARGIN) <= 1
    return Strategy(ratio, ttft_ms, tpot_ms, feasible)


def _violation(limits: Limits, strategy: Strategy) -> float:
    return limits.violation(strategy.predicted_ttft_ms, strategy.predicted_tpot_ms)


def _unreachable(
    latency: LatencyModel,
    slo: Slo,
    limits: Limits,
    closest: Strategy,
    prompt_tokens: int,
    kv_tokens: int,
) -> str:
    full = latency.ratios[-1]
    sides = (
        ("ttft", slo.ttft, limits.ttft_ms, closest.predicted_ttft_ms,
         latency.predict_ttft(full, prompt_tokens)),
        ("tpot", slo.tpot, limits.tpot_ms, closest.predicted_tpot_ms,
         latency.predict_tpot(full, kv_tokens)),
    )  # fmt: skip
    reachable = []
    for name, share, limit_ms, predicted_ms, full_ms in sides:
        if limit_ms is None:
            continue
        needed_ms = predicted_ms * (1 + SAFETY_MARGIN)
        if share is None:
            value = limit_ms if needed_ms <= limit_ms else _round_up(needed_ms)
            reachable.append(f"{name}_ms={value}")
        else:
            value = share if needed_ms <= limit_ms else min(1.0, _round_up(needed_ms / full_ms))
            reachable.append(f"{name}={value}")
    return (
        f"no level meets {slo} for a prompt of {prompt_tokens} tokens; "
        f"the smallest SLO that can be met is {', '.join(reachable)} (level {closest.level:g})"
    )


def _round_up(value: float) -> float:
    """To three significant digits, and a hair above so that rounding never undercuts."""
    digits = 2 - math.floor(math.log10(value))
    step = 10.0**-digits
    return round((math.floor(value / step) + 1) * step, max(digits, 0))
