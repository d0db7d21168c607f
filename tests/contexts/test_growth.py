"""What a call and a start cost must not grow with the number of contexts stored."""

import secrets
import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from pliant.cli import main
from pliant.contexts.chunks import StoredChunk
from pliant.contexts.contexts import Contexts
from pliant.contexts.journal import Journal
from pliant.contexts.options import ContextOptions
from pliant.contexts.pieces import Piece
from pliant.contexts.store import Store
from pliant.engine.model import ElasticModel
from support.evictions import forget_memory
from support.storage import FAST

FEW = 100
MOST_START_S = 1.0
RANDOM = np.random.default_rng(5)


def fill(root: Path, count: int, model: ElasticModel) -> None:
    """So many contexts with a history and a chunk each, in bulk and without a model."""
    chunk = StoredChunk(bytes(512), (128,) * 4, 4, 1.0)
    with Journal(root) as journal, Store(root) as store:
        journal._db.execute("PRAGMA synchronous=OFF")  # Syncing is what takes time, not counting.
        for _ in range(count):
            system = [Piece(range(6, 30), 1.0)]
            context = journal.create("app", model.bundle.sha256, system=system)
            store.put(context, secrets.token_bytes(32), chunk)


class Switcher:
    """Two contexts among all those of a folder, called in turn; each call restores from disk."""

    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts
        self._opened = [contexts.open("app", info.id) for info in contexts.list("app")[:2]]
        for _ in range(2):
            self.switch(90)

    def switch(self, new: int = 3) -> float:
        """Milliseconds of a call."""
        forget_memory(self._contexts)
        self._opened.reverse()
        tokens = RANDOM.integers(6, 300, new).tolist()
        begin = time.perf_counter()
        self._opened[0].call(tokens, max_tokens=2)
        return 1000 * (time.perf_counter() - begin)

    def sql_steps(self) -> int:
        """Instructions that SQLite runs for a call, with all that is stored after it."""
        counted = 0

        def count() -> None:
            nonlocal counted
            counted += 1

        shared = self._contexts._shared
        databases = shared.journal._db, shared.store._shelf.index._db
        for database in databases:
            database.set_progress_handler(count, 1)
        self.switch()
        self._contexts.flush()
        for database in databases:
            database.set_progress_handler(None, 1)
        return counted


def measure(model: ElasticModel, root: Path, count: int) -> tuple[float, int, float]:
    """Seconds to open, SQL instructions of a switch, and its median milliseconds."""
    fill(root, count, model)
    begin = time.perf_counter()
    with Contexts(model, root, ContextOptions(bits=16, storage=FAST)) as contexts:
        open_s = time.perf_counter() - begin
        switcher = Switcher(contexts)
        steps = switcher.sql_steps()
        return open_s, steps, statistics.median(switcher.switch() for _ in range(15))


@pytest.mark.parametrize("many", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_contexts_that_are_not_called_cost_nothing(
    model: ElasticModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    many: int,
) -> None:
    _, few_steps, few_ms = measure(model, tmp_path / "few", FEW)
    monkeypatch.setenv("PLIANT_HOME", str(tmp_path))
    open_s, steps, ms = measure(model, tmp_path / "contexts", many)
    assert steps <= 1.05 * few_steps
    # Generous, since the machine may be busy; benchmarks/context_store.py measures.
    assert ms <= 3 * few_ms + 5
    assert open_s < MOST_START_S
    assert ls(capsys) == many


def ls(capsys: pytest.CaptureFixture[str]) -> int:
    """How many contexts are listed, in well under a second."""
    capsys.readouterr()
    begin = time.perf_counter()
    assert main(["contexts", "ls"]) == 0
    assert time.perf_counter() - begin < MOST_START_S
    return len(capsys.readouterr().out.splitlines()) - 1
