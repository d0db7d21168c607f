"""Times of the steps of a decision."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._steps_s: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def timing(self, step: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._steps_s[step] += time.perf_counter() - begun

    def ms(self, step: str) -> float:
        """Of all that was timed under this name."""
        return 1000 * self._steps_s[step]

    def total_ms(self) -> float:
        return 1000 * (time.perf_counter() - self._begun)
