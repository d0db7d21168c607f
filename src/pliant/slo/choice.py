"""Pick one of a request's candidates."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pliant.errors import SloUnreachableError
from pliant.slo.grid import Strategy
from pliant.slo.limits import Limits
from pliant.slo.online import Margins
from pliant.slo.reader import Reader
from pliant.slo.slo import Slo

if TYPE_CHECKING:
    from pliant.tlm.model import Reading

CLOSE = 1.1
"""Where nothing is feasible, what misses by at most 10% more than the closest is as close: a prompt
is not cut to pieces for the little that a shorter context saves per token."""


def choose_by_rule(candidates: Sequence[Strategy]) -> Strategy:
    """The largest prompt ratio, and of those the largest level.

    What a shorter prompt leaves out nobody can answer from, so without a TLM's opinion the model
    is made smaller first.
    """
    return max(candidates, key=lambda s: (s.prompt_ratio, s.level))


def choose_by_reading(
    candidates: Sequence[Strategy], reader: Reader, reading: "Reading"
) -> tuple[Strategy, float]:
    """The pair whose level and prompt ratio are likeliest together, with that probability.

    The heads' two distributions are taken for independent: a pair's probability is the product
    of the two, as a share of all that the candidates have. On a tie the larger pair wins.
    """
    of_level = dict(zip(reader.levels, reading.levels, strict=True))
    of_ratio = dict(zip(reader.prompt_ratios, reading.prompt_ratios, strict=True))
    products = [of_level[s.level] * of_ratio.get(s.prompt_ratio, 1.0) for s in candidates]
    best = max(
        range(len(candidates)),
        key=lambda i: (products[i], candidates[i].level, candidates[i].prompt_ratio),
    )
    total = sum(products)
    return candidates[best], products[best] / total if total > 0 else 1 / len(candidates)


def closest(candidates: Sequence[Strategy]) -> tuple[Strategy, ...]:
    """Those that miss the limits least, within CLOSE."""
    least = min(s.violation for s in candidates)
    return tuple(s for s in candidates if s.violation <= least * CLOSE)


def unreachable(
    candidates: Sequence[Strategy], slo: Slo, limits: Limits, margins: Margins, prompt_tokens: int
) -> SloUnreachableError:
    """What to raise when no candidate is feasible: names the smallest SLO that one meets."""
    best = min(candidates, key=lambda s: s.violation)
    ttft_ms = best.predicted_ttft_ms * (1 + margins.ttft)
    tpot_ms = best.predicted_tpot_ms * (1 + margins.tpot)
    reachable = {
        **_reachable("ttft", slo.ttft, ttft_ms, limits.ttft_ms, limits.full_ttft_ms),
        **_reachable("tpot", slo.tpot, tpot_ms, limits.tpot_ms, limits.full_tpot_ms),
    }
    return SloUnreachableError(
        f"no strategy is predicted to meet {slo} for a prompt of {prompt_tokens} tokens "
        f"(closest: level {best.level:g}, {best.prompt_ratio:.0%} of the prompt)",
        reachable=reachable,
    )


def _reachable(
    side: str, share: float | None, needed_ms: float, limit_ms: float | None, full_ms: float
) -> dict[str, float]:
    """One side of the smallest SLO, in the form that was asked; a side that is met stays."""
    if limit_ms is None:
        return {}
    if share is None:
        return {f"{side}_ms": limit_ms if needed_ms <= limit_ms else _round_up(needed_ms)}
    return {side: share if needed_ms <= limit_ms else min(1.0, _round_up(needed_ms / full_ms))}


def _round_up(value: float) -> float:
    """To three significant digits, and a hair above so that rounding never undercuts."""
    digits = 2 - math.floor(math.log10(value))
    step = 10.0**-digits
    return round((math.floor(value / step) + 1) * step, max(digits, 0))
