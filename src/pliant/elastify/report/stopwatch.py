"""How long the steps of a run took."""

from __future__ import annotations

import time
from collections.abc import Callable

from pliant.elastify.report.data import StepTime


class Stopwatch:
    """Starts when it is made; `lap` ends a step and begins the next one."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._started = clock()
        self._steps: list[StepTime] = []

    def lap(self, step: str) -> None:
        """Calls what happened since the last lap `step`."""
        now = self._clock()
        self._steps.append(StepTime(step, now - self._started))
        self._started = now

    @property
    def steps(self) -> tuple[StepTime, ...]:
        return tuple(self._steps)
