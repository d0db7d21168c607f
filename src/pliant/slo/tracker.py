"""`Tracker`: how far measured times stray from a calibrated model, learned request by request.

A logarithm of measured over calibrated time is taken for the sum of three terms: one shared by
all levels (the machine: clock, other programs, threads given up), one of the level, and noise.
Medians tell them apart, so that single outliers count for nothing.
"""

import math
from collections import defaultdict, deque
from statistics import NormalDist, median

WINDOW = 32
"""Requests since the last change that the terms are taken from."""

CHANGE_RUN = 3
"""So many requests in a row that are off to the same side, most of them by more than noise, are a
change of the machine: it counts at once for every level, and what was seen before no longer
does."""

MARGIN_QUANTILE = 0.98
"""The margin covers this share of the errors, the largest few left out.

A request that took half as long again is an outlier that no margin should cover, unless there are
many of them.
"""

_OUTLIER = math.log(1.5)
_MAX_OUTLIER_RATE = 0.06
_MIN_CHANGE = math.log(1.1)
_CHANGE_IN_MEDIANS = 3.0  # of the absolute errors; about two standard deviations
_LEVEL_WINDOW = 15
_LEVEL_PRIOR = 4  # requests that "this level is as all others" counts for
_ERRORS = 100
_MIN_MARGIN = 0.02
_MAX_MARGIN = 0.4  # more gives up answers for requests that no margin saves

# Before anything was measured, a few requests count as if they had taken the calibrated time, with
# the errors of an idle machine: 6%.
_PRIOR_SPREAD = 0.06
_PRIOR_COUNT = 20
_AS_CALIBRATED = [(1.0, 0.0)] * 4
_NORMAL_SPREAD = 1.4826  # standard deviations in a median absolute error


class Tracker:
    """One side (TTFT or TPOT) of the latencies of all levels. Not thread-safe."""

    def __init__(self) -> None:
        self._shared = 0.0
        self._recent: deque[tuple[float, float]] = deque(_AS_CALIBRATED, maxlen=WINDOW)
        self._errors = _errors_of(_PRIOR_SPREAD)
        self._run: deque[float] = deque(maxlen=CHANGE_RUN)
        self._levels: defaultdict[float, deque[float]] = defaultdict(
            lambda: deque(maxlen=_LEVEL_WINDOW)
        )

    def factor(self, level: float) -> float:
        """Expected over calibrated time."""
        return math.exp(self._shared + self._level(level))

    @property
    def margin(self) -> float:
        """What to add to a prediction, as a share of it, so that it is seldom exceeded."""
        ordered = sorted(self._errors)
        usual = [error for error in ordered if error <= _OUTLIER]
        if len(ordered) - len(usual) > _MAX_OUTLIER_RATE * len(ordered):
            usual = ordered
        found = usual[math.floor(MARGIN_QUANTILE * (len(usual) - 1))]
        return min(_MAX_MARGIN, max(_MIN_MARGIN, math.expm1(found)))

    def observe(self, level: float, calibrated_ms: float, measured_ms: float) -> None:
        """Learn from one request's time; both times are above 0."""
        ratio = math.log(measured_ms / calibrated_ms)
        error = ratio - self._shared - self._level(level)
        self._errors.append(error)
        self._run.append(error)
        self._recent.append((level, ratio))
        has_changed = self._has_changed()
        if has_changed:
            self._forget()
        self._shared = median(ratio - self._level(level) for level, ratio in self._recent)
        if not has_changed:
            self._levels[level].append(ratio - self._shared)

    def _has_changed(self) -> bool:
        if len(self._run) < CHANGE_RUN:
            return False
        least = max(_MIN_CHANGE, _CHANGE_IN_MEDIANS * self._usual_error())
        is_same_side = min(self._run) > least / 2 or max(self._run) < -least / 2
        return is_same_side and abs(median(self._run)) > least

    def _forget(self) -> None:
        """All but the requests that showed the change, which say nothing of their levels or of
        the noise: it is taken to be no less than before."""
        newest = list(self._recent)[-CHANGE_RUN:]
        for level, _ in newest[:-1]:
            self._levels[level].pop()
        self._recent = deque(newest, maxlen=WINDOW)
        self._errors = _errors_of(max(_PRIOR_SPREAD, _NORMAL_SPREAD * self._usual_error()))
        self._run.clear()

    def _usual_error(self) -> float:
        return median(abs(error) for error in self._errors)

    def _level(self, level: float) -> float:
        """The level's own term: a median, drawn towards none while there is little of it."""
        terms = self._levels.get(level)
        if not terms:
            return 0.0
        return median(terms) * len(terms) / (len(terms) + _LEVEL_PRIOR)


def _errors_of(spread: float) -> deque[float]:
    """A few errors as a normal distribution has them, to begin with."""
    normal = NormalDist(0, spread)
    shares = ((index + 0.5) / _PRIOR_COUNT for index in range(_PRIOR_COUNT))
    return deque((normal.inv_cdf(share) for share in shares), maxlen=_ERRORS)
