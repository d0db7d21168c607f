"""Fit a level's latency coefficients to measured medians."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from pliant.slo.latency import SHORT_CHUNK, DecodeCost, LevelLatency, PrefillCost

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """One measured forward pass: `num_tokens` behind `start` KV entries took `time_ms`.

    A decode step is a sample of one token.
    """

    num_tokens: float
    start: float
    time_ms: float


def fit_level(ratio: float, samples: Sequence[Sample]) -> LevelLatency:
    """Least squares on relative errors with non-negative coefficients.

    Relative, so that a short prompt is predicted as well as a long one. A model that is so slow
    that only short prefills were measured takes their costs for long ones too.
    """
    short = [s for s in samples if 1 < s.num_tokens < SHORT_CHUNK]
    long = [s for s in samples if s.num_tokens >= SHORT_CHUNK]
    steps = [s for s in samples if s.num_tokens == 1]
    return LevelLatency(ratio, _fit_prefill(long or short), _fit_prefill(short), _fit_decode(steps))


def _fit_prefill(samples: Sequence[Sample]) -> PrefillCost:
    rows = [(1.0, s.num_tokens, s.num_tokens * (s.start + s.num_tokens / 2)) for s in samples]
    return PrefillCost(*_fit(rows, samples))


def _fit_decode(samples: Sequence[Sample]) -> DecodeCost:
    return DecodeCost(*_fit([(1.0, s.start) for s in samples], samples))


def interpolate(
    measured: Sequence[tuple[float, LevelLatency]], cost: float, ratio: float
) -> LevelLatency:
    """The level of the given cost, each coefficient linear in cost between measured neighbours.

    `measured` holds (cost, level) pairs in any order, at least one.
    """
    ordered = sorted(measured, key=lambda pair: pair[0])
    costs = [pair[0] for pair in ordered]

    def between(parts: Sequence[PrefillCost | DecodeCost]) -> list[float]:
        columns = zip(*(astuple(part) for part in parts), strict=True)
        return [float(np.interp(cost, costs, column)) for column in columns]

    levels = [level for _, level in ordered]
    return LevelLatency(
        ratio,
        PrefillCost(*between([level.prefill for level in levels])),
        PrefillCost(*between([level.short for level in levels])),
        DecodeCost(*between([level.decode for level in levels])),
    )


def _fit(rows: Sequence[tuple[float, ...]], samples: Sequence[Sample]) -> list[float]:
    times = np.array([max(s.time_ms, 1e-6) for s in samples])
    return [float(x) for x in non_negative_least_squares(np.array(rows) / times[:, None])]


def non_negative_least_squares(matrix: Array) -> Array:
    """x >= 0 that minimises |matrix @ x - 1|, exactly, by trying every set of non-zero entries.

    Columns are few (2 or 3), so this is 7 small solves at most.
    """
    num_columns = matrix.shape[1]
    target = np.ones(len(matrix))
    best, best_error = np.zeros(num_columns), float(np.sum(target**2))
    for size in range(1, num_columns + 1):
        for columns in combinations(range(num_columns), size):
            part = matrix[:, columns]
            scale = np.linalg.norm(part, axis=0)
            solution = np.linalg.lstsq(part / scale, target, rcond=None)[0] / scale
            error = float(np.sum((part @ solution - target) ** 2))
            if np.all(solution >= 0) and error < best_error:
                best = np.zeros(num_columns)
                best[list(columns)], best_error = solution, error
    return best
