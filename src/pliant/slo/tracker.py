"""`Tracker`: how far measured times stray from a calibrated model, learned request by request.

A logarithm of measured over calibrated time is taken for the sum of three terms: one shared by
all levels (the machine: clock, other programs, threads given up), one of the level, and noise.
Medians tell them apart, so that single outliers count for nothing.
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterable
from statistics import NormalDist, median

WINDOW = 32
"""Requests since the last change that the terms are taken from."""

CHANGE_RUN = 3
"""So many requests in a row, all off to the same side, are a change of the machine: it counts
at once for every level, and what was seen before it no longer does."""

MARGIN_QUANTILE = 0.98
"""The margin covers this share of the errors, the largest few left out."""

_MIN_CHANGE = math.log(1.1)
_CHANGE_IN_MEDIANS = 3.0  # of the absolute errors; about two standard deviations
_LEVEL_WEIGHT = 3  # requests that a level's old term counts for
_MIN_LEVEL_COUNT = 3
_ERRORS = 100
_MIN_MARGIN = 0.02

# Before anything was measured, errors are taken to be as those of an idle machine: 6%.
_PRIOR_COUNT = 20
_PRIOR = tuple(
    NormalDist(0, 0.06).inv_cdf((index + 0.5) / _PRIOR_COUNT) for index in range(_PRIOR_COUNT)
)


class Tracker:
    """One side (TTFT or TPOT) of the latencies of all levels. Not thread-safe."""

    def __init__(self) -> None:
        self._shared = 0.0
        self._levels: defaultdict[float, float] = defaultdict(float)
        self._recent: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._errors: deque[float] = deque(_PRIOR, maxlen=_ERRORS)

    def factor(self, level: float) -> float:
        """Expected over calibrated time."""
        return math.exp(self._shared + self._levels[level])

    @property
    def margin(self) -> float:
        """What to add to a prediction, as a share of it, so that it is seldom exceeded."""
        ordered = sorted(self._errors)
        found = ordered[math.floor(MARGIN_QUANTILE * (len(ordered) - 1))]
        return max(_MIN_MARGIN, math.expm1(found))

    def observe(self, level: float, calibrated_ms: float, measured_ms: float) -> None:
        """Learn from one request's time; both times are above 0."""
        ratio = math.log(measured_ms / calibrated_ms)
        self._recent.append((level, ratio))
        self._errors.append(ratio - self._shared - self._levels[level])
        if self._has_changed():
            self._forget()
        self._fit()

    def _has_changed(self) -> bool:
        last = list(self._errors)[-CHANGE_RUN:]
        if len(self._recent) < CHANGE_RUN:
            return False
        usual = median(abs(error) for error in self._errors)
        least = max(_MIN_CHANGE, _CHANGE_IN_MEDIANS * usual)
        return min(last) > least or max(last) < -least

    def _forget(self) -> None:
        """All but the requests that showed the change; the new noise is unknown, too."""
        newest = list(self._recent)[-CHANGE_RUN:]
        self._recent = deque(newest, maxlen=WINDOW)
        self._errors = deque(_PRIOR, maxlen=_ERRORS)

    def _fit(self) -> None:
        self._shared = median(ratio - self._levels[level] for level, ratio in self._recent)
        by_level = defaultdict(list)
        for level, ratio in self._recent:
            by_level[level].append(ratio - self._shared)
        for level, terms in by_level.items():
            if len(terms) >= _MIN_LEVEL_COUNT:
                self._levels[level] = _weighted(self._levels[level], terms)


def _weighted(before: float, terms: Iterable[float]) -> float:
    terms = list(terms)
    weight = len(terms) / (len(terms) + _LEVEL_WEIGHT)
    return before + weight * (median(terms) - before)
