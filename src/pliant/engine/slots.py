"""Which KV slots of an engine are in use."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pliant.errors import BusyError


class SlotPool:
    """Leases slots 0..count-1; safe to use from several threads."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = set(range(count))
        self._lock = threading.Lock()

    @property
    def num_free(self) -> int:
        return len(self._free)

    @contextmanager
    def lease(self, most: int = 1) -> Iterator[list[int]]:
        """At least one slot and up to `most`, given back at the end; BusyError if none is free.

        Who asks for several leaves one to others, unless there is only one.
        """
        with self._lock:
            slots = sorted(self._free)[: max(1, min(most, len(self._free) - 1))]
            self._free.difference_update(slots)
        if not slots:
            raise BusyError(f"all {self._count} contexts of the model are in use; try again later")
        try:
            yield slots
        finally:
            with self._lock:
                self._free.update(slots)
