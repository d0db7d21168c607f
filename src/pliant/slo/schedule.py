"""What calibration measures: which forward passes, at which levels, within a time budget."""

from collections.abc import Sequence
from dataclasses import dataclass

from pliant.slo.latency import PREFILL_CHUNK, SHORT_CHUNK

MIN_ROUNDS = 2
"""Rounds a schedule must leave time for. A fast model gets more; the passes of a slow one are
long, and longer prompts tell more about it than a third round."""

MAX_ROUNDS = 9

_MAX_SIZES = (PREFILL_CHUNK, 256, 128, 64, 32)
_FEW_LEVELS = 3


@dataclass(frozen=True)
class Point:
    """A forward pass of `num_tokens` tokens behind `start` KV entries; one token: a decode step."""

    num_tokens: int
    start: int

    @property
    def is_decode(self) -> bool:
        return self.num_tokens == 1

    def varied(self, round_number: int, context_length: int) -> "Point":
        """Nearly the same, on the same side of SHORT_CHUNK, but of another length each round."""
        sign = 1 if self.num_tokens < SHORT_CHUNK else -1
        num_tokens = min(self.num_tokens + sign * round_number, context_length)
        return Point(num_tokens, min(self.start, context_length - num_tokens))


@dataclass(frozen=True)
class Schedule:
    """The indices of the levels to measure and the points to measure each at."""

    levels: tuple[int, ...]
    points: tuple[Point, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of the longest prefill point."""
        return max(point.num_tokens for point in self.points)


def make_schedule(
    costs: Sequence[float],
    context_length: int,
    token_s: float,
    step_s: float,
    budget_s: float,
) -> Schedule:
    """The most informative schedule of which `MIN_ROUNDS` rounds fit the budget.

    `costs` are the levels' shares of the full cost, ascending; `token_s` and `step_s` what a
    prefill token and a decode step take at full level. A model too slow even for the smallest
    schedule gets that one.
    """
    every = tuple(range(len(costs)))
    few = _spread(len(costs))
    candidates = [
        Schedule(levels, _points(size, context_length))
        for size in _MAX_SIZES
        for levels in dict.fromkeys((every, few))
    ]
    for schedule in candidates:
        round_s = sum(
            costs[level] * (step_s if point.is_decode else point.num_tokens * token_s)
            for level in schedule.levels
            for point in schedule.points
        )
        if round_s * MIN_ROUNDS <= budget_s:
            return schedule
    return candidates[-1]


def _spread(num_levels: int) -> tuple[int, ...]:
    """The first, the middle and the last of the levels."""
    steps = _FEW_LEVELS - 1
    return tuple(sorted({round(i * (num_levels - 1) / steps) for i in range(_FEW_LEVELS)}))


def _points(size: int, context_length: int) -> tuple[Point, ...]:
    """Prefill chunks of up to `size` tokens, short ones, and steps; some deep in the context."""
    size = min(size, context_length - 1)
    deep = min(context_length - 1, 4 * size)
    # Less than two lengths would leave the cost per token open.
    has_long = size >= 2 * SHORT_CHUNK
    least = SHORT_CHUNK + MAX_ROUNDS
    long = [max(least, size // part) for part in (8, 4, 2, 1)] if has_long else []
    short = [tokens for tokens in (8, 24, SHORT_CHUNK - MAX_ROUNDS) if tokens <= size] or [size]
    wanted = (
        *(Point(tokens, 0) for tokens in (*short, *long)),
        *(Point(tokens, deep - tokens) for tokens in (short[-1], *long[1:2])),
        *(Point(1, start) for start in (min(16, deep), deep // 2, deep)),
    )
    return tuple(dict.fromkeys(wanted))
