"""Disks that are full or cannot be written: answers stay right, through `Contexts`.

Only a call that cannot be journaled is refused, with what to do, and changes nothing.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pliant.contexts.context import Context
from pliant.contexts.contexts import Contexts
from pliant.contexts.options import ContextOptions
from pliant.engine.model import ElasticModel
from pliant.errors import ContextsError, JournalWriteError
from support.answers import check_answer
from support.evictions import forget_memory
from support.small_disk import fill, mounted, read_only
from support.storage import FAST

RANDOM = np.random.default_rng(12)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "contexts"
    root.mkdir()
    return root


@pytest.fixture
def open_here(model: ElasticModel, root: Path) -> Callable[[], Contexts]:
    return lambda: Contexts(model, root, ContextOptions(bits=16, storage=FAST))


def tokens(count: int) -> list[int]:
    return RANDOM.integers(6, 300, count).tolist()


def history(contexts: Contexts, context: Context) -> list[int]:
    return list(contexts._shared.journal.history(context.id).tokens)


def ask(contexts: Contexts, model: ElasticModel, context: Context, count: int = 5) -> None:
    """A call with nothing in memory; its answer must be that to the whole history."""
    forget_memory(contexts)
    before, new = history(contexts, context), tokens(count)
    answer = context.call(new, max_tokens=4)
    check_answer(model, [*before, *new], answer.tokens)
    assert history(contexts, context) == [*before, *new, *answer.tokens]
    contexts.flush()


def test_a_disk_that_fills_up_drops_kv_of_the_oldest(
    model: ElasticModel, root: Path, open_here: Callable[[], Contexts]
) -> None:
    with mounted(root, "3m"), open_here() as contexts:
        opened = [contexts.create("app") for _ in range(8)]
        for number in range(24):
            ask(contexts, model, opened[number % 8], count=150 if number < 16 else 5)
        stat = contexts.stat()
        assert stat.store.evicted_contexts > 0
        assert stat.restored_tokens["recomputed"] > 0
        assert stat.store.corrupt == 0 and stat.swapout.failures == 0


def test_a_disk_filled_by_others(
    model: ElasticModel,
    root: Path,
    open_here: Callable[[], Contexts],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with mounted(root, "4m"), open_here() as contexts:
        context = contexts.create("app")
        ask(contexts, model, context, count=100)
        # The journal has room in its log for some calls, KV has none.
        fill(root / "other", leave=64 << 10)
        with caplog.at_level(logging.WARNING):
            ask(contexts, model, context, count=250)
        assert contexts.stat().store.failed_puts > 0
        assert "KV was not stored" in caplog.text
        ask(contexts, model, context)
        assert contexts.stat().restored_tokens["recomputed"] > 0
        (root / "other").unlink()
        ask(contexts, model, context)
        failed = contexts.stat().store.failed_puts
        ask(contexts, model, context)
        assert contexts.stat().store.failed_puts == failed


def test_calls_that_cannot_be_journaled_are_refused(
    model: ElasticModel, root: Path, open_here: Callable[[], Contexts]
) -> None:
    with mounted(root, "4m"), open_here() as contexts:
        opened = [contexts.create("app") for _ in range(2)]
        for context in opened:
            ask(contexts, model, context, count=60)
        fill(root / "other")
        with pytest.raises(JournalWriteError, match="free some space"):
            for number in range(1000):
                # What is stored of contexts makes room for the journal until it is used up.
                fill(root / f"other {number}")
                before = history(contexts, opened[0])
                opened[0].call(tokens(3), max_tokens=1)
        assert history(contexts, opened[0]) == before
        for path in root.glob("other*"):
            path.unlink()
        for context in opened:
            ask(contexts, model, context)


def test_kv_that_cannot_be_written(
    model: ElasticModel,
    root: Path,
    open_here: Callable[[], Contexts],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is read as it is; what is new stays in memory, and is computed again."""
    with open_here() as contexts:
        name = contexts.create("app").id
        ask(contexts, model, contexts.open("app", name), count=200)
    with read_only(root / "kv"), caplog.at_level(logging.WARNING), open_here() as contexts:
        context = contexts.open("app", name)
        ask(contexts, model, context, count=100)
        stat = contexts.stat()
        assert stat.restored_tokens["from_disk"] > 190
        assert stat.store.failed_puts > 0 and "KV cannot be stored" in caplog.text
        ask(contexts, model, context)
        assert contexts.stat().restored_tokens["recomputed"] >= 100
        context.delete()
        other = contexts.create("app")
        ask(contexts, model, other, count=80)
        assert [info.id for info in contexts.list("app")] == [other.id]
    with open_here() as contexts:
        assert {path.stem for path in (root / "kv").glob("*.pack")} <= {other.id}
        ask(contexts, model, contexts.open("app", other.id))


def test_a_folder_that_cannot_be_written(
    model: ElasticModel, root: Path, open_here: Callable[[], Contexts]
) -> None:
    with open_here() as contexts:
        name = contexts.create("app").id
        ask(contexts, model, contexts.open("app", name), count=50)
    with read_only(root), pytest.raises(ContextsError, match="cannot be"):
        open_here()
    with open_here() as contexts:
        ask(contexts, model, contexts.open("app", name))
