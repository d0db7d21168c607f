"""How many threads a forward pass uses while other programs run.

ggml's threads meet at a barrier after every operation. When another program takes one of their
cores, all wait for the thread that was put aside, and two threads become slower than one.
"""

import os
import time
from pathlib import Path

import psutil

_WINDOW_SECONDS = 0.5
_GAP_SECONDS = 0.05


def physical_cores() -> int:
    """Physical cores this process may use."""
    allowed = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else 0
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return max(1, min(physical, allowed or physical))


class FreeCores:
    """How many cores others leave to one short computation, by what runs at this moment.

    For passes of a few milliseconds, which `ThreadGovernor` is too slow for. Linux tells it; other
    systems count as idle.
    """

    _LOAD = Path("/proc/loadavg")

    def __init__(self) -> None:
        self._cores = psutil.cpu_count() or 1

    def count(self) -> int:
        """At least 1: the caller's own."""
        try:
            # proc(5): the fourth field begins with how many threads can run now, this one included.
            running = int(self._LOAD.read_text().split()[3].partition("/")[0])
        except (OSError, ValueError, IndexError):
            return self._cores
        return max(1, self._cores - (running - 1))


class ThreadGovernor:
    """Gives one thread less for each core that other programs kept busy while passes ran.

    What others do between passes does not count: they may be what the next pass waited for.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._cores = psutil.cpu_count() or 1
        self._threads = limit
        self._window_begin = self._last_end = 0.0
        self._others_before = 0.0

    def begin(self) -> int:
        """Threads for the pass that begins now."""
        now = time.monotonic()
        if now - self._last_end > _GAP_SECONDS:
            self._open_window(now)
        return self._threads

    def end(self) -> None:
        """The pass is over; twice a second at most, look at what others did meanwhile."""
        now = self._last_end = time.monotonic()
        elapsed = now - self._window_begin
        if elapsed >= _WINDOW_SECONDS:
            before = self._others_before
            self._open_window(now)
            busy_cores = (self._others_before - before) / elapsed
            self._threads = max(1, min(self.limit, self._cores - round(busy_cores)))

    def _open_window(self, now: float) -> None:
        self._window_begin = now
        self._others_before = self._busy_seconds_of_others()

    def _busy_seconds_of_others(self) -> float:
        total = psutil.cpu_times()
        own = os.times()
        niced = getattr(total, "nice", 0.0)
        return float(total.user + niced + total.system - own.user - own.system)
