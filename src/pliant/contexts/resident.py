"""Which tokens of which context an engine slot holds."""

from collections.abc import Sequence

import numpy as np

from pliant.contexts.journal import ContextId
from pliant.contexts.spans import ChunkSpan


class ResidentSlot:
    """A slot's content, position by position; `epoch` counts the calls that had it.

    `have[i]` is the level whose KV heads position i has, 0 if it has none that can be used. A
    restore marks positions only when they are complete, so half of one is never used.
    """

    def __init__(self, number: int, capacity: int) -> None:
        self.number = number
        self.context: ContextId | None = None
        self.epoch = 0
        self._tokens = np.zeros(capacity, dtype=np.int64)
        self._have = np.zeros(capacity, dtype=np.float64)

    @property
    def length(self) -> int:
        """Positions up to the last that is usable."""
        used = np.flatnonzero(self._have)
        return int(used[-1]) + 1 if len(used) else 0

    def clear(self) -> None:
        self.context = None
        self._have[:] = 0

    def expect(self, tokens: Sequence[int]) -> None:
        """Forget what is not of `tokens`: everything from the first that differs on."""
        wanted = np.asarray(tokens, dtype=np.int64)
        differs = np.flatnonzero(self._tokens[: len(wanted)] != wanted)
        common = int(differs[0]) if len(differs) else len(wanted)
        self._have[common:] = 0
        self._tokens[common : len(wanted)] = wanted[common:]

    def mark(self, start: int, stop: int, level: float) -> None:
        """Positions `start`..`stop` now have the heads of `level`."""
        self._have[start:stop] = level

    def append(self, tokens: Sequence[int], start: int, level: float) -> None:
        """Note `tokens` from position `start` on, computed at `level`."""
        stop = start + len(tokens)
        self._tokens[start:stop] = tokens
        self._have[start:stop] = level
        self._have[stop:] = 0

    def has(self, start: int, stop: int, level: float) -> bool:
        """Whether all these positions have the heads of `level`."""
        return bool((self._have[start:stop] >= level).all())

    def missing(self, spans: Sequence[ChunkSpan], level: float) -> list[ChunkSpan]:
        return [span for span in spans if not self.has(span.start, span.stop, level)]

    def computed(self, level: float, most: int) -> int:
        """How many positions from the first on have the heads of `level`, at most `most`."""
        lacks = np.flatnonzero(self._have[:most] < level)
        return int(lacks[0]) if len(lacks) else most
