"""What all contexts of a model share, and which of them a call has."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pliant.contexts.choice import Chooser
from pliant.contexts.identity import KeySpace
from pliant.contexts.journal import ContextId, Journal
from pliant.contexts.memory import Memory
from pliant.contexts.options import ContextOptions
from pliant.contexts.restore import Restorer, RestoreReport
from pliant.contexts.store import Store
from pliant.contexts.swapout import Swapper
from pliant.engine.model import ElasticModel
from pliant.errors import BusyError
from pliant.tlm.scores import Scorer


@dataclass(frozen=True)
class Shared:
    """Owned by `Contexts`. `scorer` is there if chats that reach the model's length are to be
    shortened."""

    model: ElasticModel
    options: ContextOptions
    journal: Journal
    store: Store
    memory: Memory
    restorer: Restorer
    swapper: Swapper
    chooser: Chooser
    scorer: Scorer | None
    restores: Counter[str] = field(default_factory=Counter)
    _busy: set[ContextId] = field(default_factory=set)
    _spaces: dict[str, KeySpace] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def space(self, app: str) -> KeySpace:
        """Contexts of one app share chunks, those of two never do."""
        if app not in self._spaces:
            self._spaces[app] = KeySpace.of(self.model.engine, app)
        return self._spaces[app]

    @contextmanager
    def exclusive(self, context: ContextId) -> Iterator[None]:
        """One call at a time per context; BusyError if there is one."""
        with self._lock:
            if context in self._busy:
                raise BusyError(f"context {context} is answering another call; try again later")
            self._busy.add(context)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(context)

    def count(self, report: RestoreReport, restores: int) -> None:
        with self._lock:
            self.restores.update(
                restores=restores,
                from_memory=report.from_memory,
                from_disk=report.from_disk,
                recomputed=report.recomputed,
            )
