"""What calibration measures: which short answers, at which levels, within a time budget."""

from collections.abc import Sequence
from dataclasses import dataclass

from pliant.slo.latency import PREFILL_CHUNK, SHORT_CHUNK

ANSWER_STEPS = 3
"""Decode steps after the first token of a measured answer. Few, as in the answers of assistants:
the first steps after a prompt are slower than those of a long answer, for the prompt drove the
decode's code and data out of the caches."""

MAX_ROUNDS = 9

_FEW_LEVELS = 3
_ROUNDS, _SIZES = 2, (PREFILL_CHUNK, 256, 128)
# A slow model: its passes are long, so that one round of them is not disturbed by much, and
# longer prompts tell more about it than a second one.
_SLOW_ROUNDS, _SLOW_SIZES = 1, (PREFILL_CHUNK, 256, 128, 64, 32, 16, 8)


@dataclass(frozen=True)
class Point:
    """A prompt of `num_tokens` tokens behind `start` KV entries, and an answer of so many `steps`
    after its first token."""

    num_tokens: int
    start: int
    steps: int = 0

    @property
    def has_prompt(self) -> bool:
        """Whether its time to first token is a prefill's: a single token is a decode step."""
        return self.num_tokens > 1

    def seconds(self, token_s: float, step_s: float) -> float:
        """What it takes where a prompt's token takes `token_s` and a step `step_s`."""
        prompt_s = self.num_tokens * token_s if self.has_prompt else step_s
        return prompt_s + self.steps * step_s

    def varied(self, round_number: int, context_length: int) -> "Point":
        """Nearly the same, on the same side of SHORT_CHUNK, but of another length each round."""
        if not self.has_prompt:
            return self
        sign = 1 if self.num_tokens < SHORT_CHUNK else -1
        num_tokens = min(self.num_tokens + sign * round_number, context_length - self.steps)
        start = min(self.start, context_length - num_tokens - self.steps)
        return Point(num_tokens, start, self.steps)


@dataclass(frozen=True)
class Schedule:
    """The indices of the levels to measure and the points to measure each at."""

    levels: tuple[int, ...]
    points: tuple[Point, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of the longest prompt."""
        return max(point.num_tokens for point in self.points)

    def seconds(self, costs: Sequence[float], token_s: float, step_s: float) -> float:
        """What one round takes; `costs` and the rest as for `make_schedule`."""
        full_s = sum(point.seconds(token_s, step_s) for point in self.points)
        return full_s * sum(costs[level] for level in self.levels)


def make_schedule(
    costs: Sequence[float],
    context_length: int,
    token_s: float,
    step_s: float,
    budget_s: float,
) -> Schedule:
    """The most informative schedule whose rounds fit the budget.

    `costs` are the levels' shares of the full cost, ascending; `token_s` and `step_s` what a
    prefill token and a decode step take at full level. A model too slow even for the smallest
    schedule gets that one.
    """
    every = tuple(range(len(costs)))
    few = _spread(len(costs))
    for size in _SIZES:
        for levels in dict.fromkeys((every, few)):
            schedule = Schedule(levels, _points(size, context_length))
            if schedule.seconds(costs, token_s, step_s) * _ROUNDS <= budget_s:
                return schedule
    for size in _SLOW_SIZES:
        schedule = Schedule(few, _few_points(size, context_length))
        if schedule.seconds(costs, token_s, step_s) * _SLOW_ROUNDS <= budget_s:
            break
    return schedule


def _spread(num_levels: int) -> tuple[int, ...]:
    """The first, the middle and the last of the levels."""
    steps = _FEW_LEVELS - 1
    return tuple(sorted({round(i * (num_levels - 1) / steps) for i in range(_FEW_LEVELS)}))


def _points(size: int, context_length: int) -> tuple[Point, ...]:
    """Prompts of up to `size` tokens with short answers; some deep in the context."""
    size = min(size, context_length - 1 - ANSWER_STEPS)
    deep = min(context_length - 1 - ANSWER_STEPS, 4 * size)
    # Less than two lengths would leave the cost per token open.
    has_long = size >= 2 * SHORT_CHUNK
    least = SHORT_CHUNK + MAX_ROUNDS
    long = [max(least, size // part) for part in (8, 4, 2, 1)] if has_long else []
    short = [tokens for tokens in (8, 24, SHORT_CHUNK - MAX_ROUNDS) if tokens <= size] or [size]
    wanted = (
        *(Point(tokens, 0, ANSWER_STEPS) for tokens in (*short, *long)),
        *(Point(tokens, deep - tokens, ANSWER_STEPS) for tokens in (short[-1], *long[1:2])),
        *(Point(1, start, ANSWER_STEPS) for start in (min(16, deep), deep // 2, deep)),
    )
    return tuple(dict.fromkeys(wanted))


def _few_points(size: int, context_length: int) -> tuple[Point, ...]:
    """A short prompt and one of `size` tokens, and steps at two depths."""
    size = min(size, context_length - 1 - ANSWER_STEPS)
    deep = min(context_length - 1 - ANSWER_STEPS, 4 * size)
    short = max(1, min(size // 2, SHORT_CHUNK - 1))
    long = (SHORT_CHUNK, size) if size >= 2 * SHORT_CHUNK else (size,)
    wanted = (
        *(Point(tokens, 0) for tokens in (max(1, short // 2), short, *long)),
        *(Point(1, start, ANSWER_STEPS) for start in (min(16, deep), deep)),
    )
    return tuple(dict.fromkeys(wanted))
