"""Many switches within one budget, and what the process really takes.

The process may have, besides what the model takes, the budget and 5 % of it. The model's part is
what is resident after a warm-up of the same calls, with all contexts deleted and what the heap has
left given back: weights, graphs, buffers, Python, and SQLite's caches. While a thread saves what
was answered, its working memory comes on top; that does not grow with the budget.
"""

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

import pliant
from pliant.contexts.context import Context
from pliant.contexts.contexts import Contexts
from pliant.contexts.options import ContextOptions
from pliant.contexts.storage import StorageProfile
from pliant.engine.model import ElasticModel
from pliant.engine.options import EngineOptions
from pliant.errors import MemoryBudgetError
from support.evictions import forget_memory
from support.storage import FAST

# Of both models.
LEVELS = (0.3, 0.5, 1.0)
GROWTH = (28, 60)
ANSWER = 4
MOST_TOKENS = 900
SAVING_BYTES = 4 << 20


class Trace:
    """Calls of random contexts at random levels; a long one is deleted and begun anew.

    Few lengths of prompts: graphs are kept per length, and are the model's.
    """

    def __init__(self, contexts: Contexts, count: int, vocab_size: int) -> None:
        self._contexts = contexts
        self._vocab_size = vocab_size
        self._random = np.random.default_rng(1)
        self._opened = [self._new() for _ in range(count)]

    def step(self) -> None:
        index = int(self._random.integers(len(self._opened)))
        if self._opened[index].stat().num_tokens > MOST_TOKENS:
            self._opened[index].delete()
            self._opened[index] = self._new()
        new = self._random.integers(6, self._vocab_size, self._random.choice(GROWTH))
        level = float(self._random.choice(LEVELS))
        self._opened[index].call(new.tolist(), level=level, max_tokens=ANSWER)

    def delete_all(self) -> None:
        for context in self._opened:
            context.delete()
        self._contexts.flush()

    def _new(self) -> Context:
        return self._contexts.create(f"app{self._random.integers(4)}")


def test_tracked_bytes_keep_to_the_budget(
    open_contexts: Callable[..., Contexts], model: ElasticModel
) -> None:
    budget = 1200 * model.engine.kv_bytes(1)
    contexts = open_contexts(memory_bytes=budget, bits=None)
    trace = Trace(contexts, 20, 300)
    for _ in range(100):
        trace.step()
        contexts._shared.memory.check()
        assert contexts.stat().memory.used <= budget
    contexts.flush()
    use = contexts.stat().memory
    assert 0.9 * budget < use.peak <= budget
    assert use.evicted_slots and use.evicted_chunks
    trace.delete_all()
    assert contexts.stat().memory.used == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc to give memory back")
def test_two_thousand_switches_of_a_real_model(
    tmp_path: Path,
) -> None:
    budget = 64 << 20
    options = ContextOptions(memory_bytes=budget, storage=FAST)
    with (
        pliant.load("pocket", EngineOptions(threads=2, slots=5)) as model,
        Contexts(model, tmp_path, options) as contexts,
    ):
        vocab_size = model.engine.architecture.vocab_size
        # Few contexts, which get as long as any: buffers are resident as far as they were used.
        warm_up = Trace(contexts, 6, vocab_size)
        for step in range(300):
            warm_up.step()
            if step % 5 == 0:
                forget_memory(contexts)
        warm_up.delete_all()
        assert contexts.stat().memory.used == 0
        base = resident_bytes()
        trace = Trace(contexts, 100, vocab_size)
        at_rest, saving = 0, 0
        for step in range(2000):
            trace.step()
            contexts._shared.memory.check()
            saving = max(saving, psutil.Process().memory_info().rss - base)
            if step % 10 == 0:
                contexts.flush()
                at_rest = max(at_rest, psutil.Process().memory_info().rss - base)
        contexts.flush()
        use = contexts.stat().memory
    assert 0.9 * budget < use.peak <= budget
    assert use.evicted_slots > 1000 and use.evicted_chunks > 1000
    assert at_rest <= 1.05 * budget, f"{at_rest / budget:.3f} of the budget"
    assert saving <= 1.05 * budget + SAVING_BYTES, f"{saving / budget:.3f} of the budget"


def resident_bytes() -> int:
    """Of this process, without what is free in its heap."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def test_a_call_waits_for_memory_that_is_being_saved(
    open_contexts: Callable[..., Contexts], model: ElasticModel
) -> None:
    """Two contexts that do not fit together, called in turn without a pause."""
    contexts = open_contexts(memory_bytes=300 * model.engine.kv_bytes(1), bits=8)
    random = np.random.default_rng(2)
    opened = [contexts.create("app") for _ in range(2)]
    for step in range(12):
        context = opened[step % 2]
        context.call(random.integers(6, 300, 20).tolist(), max_tokens=2)
    with pytest.raises(MemoryBudgetError) as caught:
        opened[0].call(random.integers(6, 300, 280).tolist(), max_tokens=2)
    assert caught.value.budget_bytes == 300 * model.engine.kv_bytes(1)


@pytest.mark.parametrize(("bandwidth", "slots"), [(1e11, 2), (5e6, 1)])
def test_memory_is_for_what_saves_time(
    open_contexts: Callable[..., Contexts], model: ElasticModel, bandwidth: float, slots: int
) -> None:
    """Where reading is quicker than decoding, for slots; else for compressed chunks."""
    budget = 500 * model.engine.kv_bytes(1)
    storage = StorageProfile(bandwidth, 0.0)
    contexts = open_contexts(memory_bytes=budget, bits=None, storage=storage)
    random = np.random.default_rng(3)
    for _ in range(3):
        contexts.create("app").call(random.integers(6, 300, 200).tolist(), max_tokens=2)
        contexts.flush()
    use = contexts.stat().memory
    assert use.slots == slots
    assert (use.chunks == 12) == (slots == 1)
