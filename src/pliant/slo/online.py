"""`OnlineLatency`: the calibrated latency model, corrected by what requests really took."""

import threading
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from pliant.slo.latency import LatencyModel
from pliant.slo.tracker import Tracker

ERROR_WINDOW = 64
"""Requests per level whose errors are reported."""

_NO_LEVEL = 1.0


@dataclass(frozen=True)
class Margins:
    """Shares of the predicted latencies that are added before they are held to a limit."""

    ttft: float
    tpot: float


@dataclass(frozen=True)
class ErrorReport:
    """How far predictions were off at one level: quantiles of |measured / predicted - 1|.

    `side` is `ttft` (what comes after restore and TLM), `tpot`, `restore`, or `reading`, the TLM's
    part of the TTFT, which is no level's: 1.0 stands there; `count` requests, the last ERROR_WINDOW
    at most; `bias` is the median of measured / predicted - 1.
    """

    side: str
    level: float
    count: int
    bias: float
    median: float
    p90: float
    p99: float


class OnlineLatency:
    """Predicts as `base` does, times factors that follow the machine. Thread-safe.

    The engine gives up threads while other programs take the cores (`engine.threads`); that and
    what remains of the slow-down is what the factors learn.
    """

    def __init__(self, base: LatencyModel) -> None:
        self.base = base
        self._lock = threading.Lock()
        sides = ("ttft", "tpot", "restore", "reading")
        self._trackers = {side: Tracker() for side in sides}
        self._errors: defaultdict[tuple[str, float], deque[float]] = defaultdict(
            lambda: deque(maxlen=ERROR_WINDOW)
        )

    def predict_ttft(self, level: float, prompt_tokens: int, start: int = 0) -> float:
        """As `LatencyModel.predict_ttft`, on the machine as it is now."""
        return self.base.predict_ttft(level, prompt_tokens, start) * self.ttft_factor(level)

    def predict_tpot(self, level: float, kv_tokens: int) -> float:
        """As `LatencyModel.predict_tpot`, on the machine as it is now."""
        return self.base.predict_tpot(level, kv_tokens) * self.tpot_factor(level)

    def ttft_factor(self, level: float) -> float:
        """Time to first token now over that of the calibration."""
        with self._lock:
            return self._trackers["ttft"].factor(level)

    def tpot_factor(self, level: float) -> float:
        with self._lock:
            return self._trackers["tpot"].factor(level)

    def restore_factor(self, level: float) -> float:
        """Time to restore a context over what was planned for it."""
        with self._lock:
            return self._trackers["restore"].factor(level)

    def reading_factor(self) -> float:
        with self._lock:
            return self._trackers["reading"].factor(_NO_LEVEL)

    @property
    def margins(self) -> Margins:
        """Learned from the errors of the last requests; they widen on a restless machine."""
        with self._lock:
            return Margins(self._trackers["ttft"].margin, self._trackers["tpot"].margin)

    def observe_ttft(self, level: float, calibrated_ms: float, measured_ms: float) -> None:
        """A first token that `base` expected after `calibrated_ms` took `measured_ms`."""
        self._observe("ttft", level, calibrated_ms, measured_ms)

    def observe_tpot(self, level: float, calibrated_ms: float, measured_ms: float) -> None:
        self._observe("tpot", level, calibrated_ms, measured_ms)

    def observe_restore(self, level: float, planned_ms: float, measured_ms: float) -> None:
        """A restore that was planned to take `planned_ms` took `measured_ms`."""
        self._observe("restore", level, planned_ms, measured_ms)

    def observe_reading(self, calibrated_ms: float, measured_ms: float) -> None:
        self._observe("reading", _NO_LEVEL, calibrated_ms, measured_ms)

    def errors(self) -> tuple[ErrorReport, ...]:
        """Of every side and level that was measured."""
        with self._lock:
            found = {key: sorted(errors) for key, errors in self._errors.items()}
        return tuple(_report(*key, errors) for key, errors in sorted(found.items()))

    def _observe(self, side: str, level: float, calibrated_ms: float, measured_ms: float) -> None:
        if calibrated_ms <= 0 or measured_ms <= 0:
            return
        with self._lock:
            tracker = self._trackers[side]
            predicted_ms = calibrated_ms * tracker.factor(level)
            self._errors[side, level].append(measured_ms / predicted_ms - 1)
            tracker.observe(level, calibrated_ms, measured_ms)


def _report(side: str, level: float, errors: Sequence[float]) -> ErrorReport:
    sizes = sorted(abs(error) for error in errors)
    return ErrorReport(
        side,
        level,
        len(errors),
        _quantile(errors, 0.5),
        _quantile(sizes, 0.5),
        _quantile(sizes, 0.9),
        _quantile(sizes, 0.99),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[round(share * (len(ordered) - 1))]
