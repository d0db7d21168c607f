"""Persistent contexts of a model: create, call, fork, delete. They outlive the process.

The journal is the truth: a call counts once its tokens are in it, and then its last chunk is handed
out. Keys and values are a cache in three places (slots, compressed chunks in memory, the disk),
any of which may lose anything.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pliant.contexts.choice import Chooser
from pliant.contexts.codec import ChunkCodec
from pliant.contexts.context import Context
from pliant.contexts.costs import profile_costs
from pliant.contexts.history import system_piece
from pliant.contexts.journal import ContextId, ContextInfo, Journal
from pliant.contexts.lock import FolderLock
from pliant.contexts.measure_storage import storage_profile
from pliant.contexts.memory import Memory, MemoryUse
from pliant.contexts.options import ContextOptions
from pliant.contexts.overflow import open_scorer
from pliant.contexts.restore import Restorer
from pliant.contexts.shared import Shared
from pliant.contexts.stats import StoreStats
from pliant.contexts.storage import EmulatedDisk
from pliant.contexts.store import Store
from pliant.contexts.swapout import Swapper, SwapStats
from pliant.engine.model import ElasticModel
from pliant.paths import contexts_folder
from pliant.slo.orchestrator import Orchestrator

_JOURNAL_ROOM = 1 << 20


@dataclass(frozen=True)
class ContextsStat:
    """What is held now and was done since opening. `restored_tokens` are by where they came from:
    memory, disk, or computed again."""

    memory: MemoryUse
    store: StoreStats
    swapout: SwapStats
    restores: int
    restored_tokens: dict[str, int]


class Contexts:
    """All contexts in one folder, for one model; methods may be called from several threads.

    It takes the model's slots but one, and the folder: one process at a time. Close it before
    the model.
    """

    def __init__(
        self,
        model: ElasticModel,
        root: Path | None = None,
        options: ContextOptions | None = None,
        *,
        orchestrator: Orchestrator | None = None,
        before_calibration: Callable[[float], None] | None = None,
    ) -> None:
        """`root` is pliant's folder for contexts by default. The `orchestrator` chooses levels
        for calls with an SLO, and stays the caller's; without one `orchestrator()` opens one when
        a call first has an SLO, and `before_calibration` is told if that has to measure.

        Raises RequestError if `overflow="compress"` is asked of a bundle without a tiny language
        model, ContextsInUseError if another process has the folder, JournalError if its journal
        cannot be read, BusyError if no slot of the model is free.
        """
        options = options or ContextOptions()
        root = contexts_folder() if root is None else root
        with ExitStack() as stack:
            is_shortened = options.overflow == "compress"
            scorer = stack.enter_context(open_scorer(model)) if is_shortened else None
            stack.enter_context(FolderLock(root))
            device = EmulatedDisk(options.storage) if options.storage else None
            store = stack.enter_context(Store(root, quota_bytes=options.quota_bytes, device=device))
            journal = stack.enter_context(
                Journal(root, make_room=lambda: store.make_room(_JOURNAL_ROOM))
            )
            store.retain(journal.ids())
            slots = stack.enter_context(model.lease_slots(model.engine.num_slots))
            codec = ChunkCodec(model.engine)
            stack.callback(codec.close)
            storage = options.storage or storage_profile(root)
            latency = None if orchestrator is None else orchestrator.latency.base
            costs = profile_costs(model.engine, codec, slots[0], storage, latency)
            memory = Memory(model.engine, slots, options.memory_bytes, costs.worth(model.engine))
            restorer = Restorer(model.engine, codec, memory, store, costs)
            stack.callback(restorer.close)
            swapper = Swapper(model.engine, codec, memory, store, options)
            stack.callback(swapper.close)
            chooser = Chooser(
                model,
                orchestrator,
                when_opened=restorer.use_latency,
                before_calibration=before_calibration,
            )
            stack.callback(chooser.close)
            parts = (model, options, journal, store, memory, restorer, swapper)
            self._shared = Shared(*parts, chooser, scorer)
            self._stack = stack.pop_all()

    def create(self, app: str, system: str | None = None, *, title: str | None = None) -> Context:
        """A new context of `app`, with a system prompt; durable when it returns."""
        shared = self._shared
        full = shared.model.levels[-1].ratio
        pieces = [system_piece(shared.model, system, full)] if system else []
        model = shared.model.bundle.sha256
        return Context(shared, app, shared.journal.create(app, model, system=pieces, title=title))

    def open(self, app: str, context: ContextId) -> Context:
        """A context of `app`; raises UnknownContextError if the app has none of this id."""
        self._shared.journal.get(context, app)
        return Context(self._shared, app, context)

    def orchestrator(self) -> Orchestrator:
        """What chooses levels and learns from calls; the first time may measure the device."""
        return self._shared.chooser.open()

    def list(self, app: str) -> list[ContextInfo]:
        """The contexts of an app, last used first."""
        return self._shared.journal.contexts(app)

    def stat(self) -> ContextsStat:
        shared = self._shared
        counts = shared.restores
        restored = {source: counts[source] for source in ("from_memory", "from_disk", "recomputed")}
        return ContextsStat(
            shared.memory.use,
            shared.store.stat(),
            shared.swapper.stats,
            counts["restores"],
            restored,
        )

    def flush(self) -> None:
        """Wait until the KV of all ended calls is on the disk."""
        self._shared.swapper.flush()

    def close(self) -> None:
        """Save what is not saved and let go of folder and slots. Idempotent."""
        self._stack.close()

    def __enter__(self) -> "Contexts":
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()
