"""How many threads a forward pass uses while other programs run.

ggml's threads meet at a barrier after every operation. When another program takes one of their
cores, all wait for the thread that was put aside, and two threads become slower than one.
"""

import time

import psutil

_SAMPLE_SECONDS = 0.1


def physical_cores() -> int:
    """Physical cores this process may use."""
    allowed = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else 0
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return max(1, min(physical, allowed or physical))


class ThreadGovernor:
    """Gives one thread less for each core that other programs kept busy lately."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._cores = psutil.cpu_count() or 1
        self._process = psutil.Process()
        self._threads = limit
        self._time = 0.0
        self._others = 0.0

    def current(self) -> int:
        """Threads to use now; looks at the system's load at most ten times a second."""
        now = time.monotonic()
        elapsed = now - self._time
        if elapsed >= _SAMPLE_SECONDS:
            others = self._busy_seconds_of_others()
            if self._time:
                self._threads = self._choose((others - self._others) / elapsed)
            self._time, self._others = now, others
        return self._threads

    def _choose(self, busy_cores: float) -> int:
        free = self._cores - round(busy_cores)
        return max(1, min(self.limit, free))

    def _busy_seconds_of_others(self) -> float:
        total = psutil.cpu_times()
        own = self._process.cpu_times()
        niced = getattr(total, "nice", 0.0)
        return float(total.user + niced + total.system - own.user - own.system)
