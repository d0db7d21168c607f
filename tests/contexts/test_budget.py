"""Many switches within one budget, and what the process really takes."""

from collections.abc import Callable

import numpy as np
import psutil
import pytest

from pliant.contexts.contexts import Contexts
from pliant.contexts.storage import StorageProfile
from pliant.engine.model import ElasticModel
from pliant.errors import MemoryBudgetError

NUM_CONTEXTS = 20
# Chunks are worth their memory: reading one takes longer than decoding it.
SLOW = StorageProfile(bandwidth=5e6, latency_s=0.0)


@pytest.mark.parametrize("switches", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_switches_keep_to_the_budget(
    open_contexts: Callable[..., Contexts], model: ElasticModel, switches: int
) -> None:
    budget = 900 * model.engine.kv_bytes(1)
    contexts = open_contexts(memory_bytes=budget, bits=None, storage=SLOW)
    random = np.random.default_rng(1)
    opened = [contexts.create(f"app{index % 4}") for index in range(NUM_CONTEXTS)]
    before = None
    for step in range(switches):
        index = int(random.integers(NUM_CONTEXTS))
        context = opened[index]
        if context.stat().num_tokens > 700:
            context.delete()
            context = opened[index] = contexts.create("app")
        level = float(random.choice([0.3, 0.5, 1.0]))
        context.call(random.integers(6, 300, 40).tolist(), level=level, max_tokens=3)
        contexts._shared.memory.check()
        if step == 40:
            before = psutil.Process().memory_info().rss
    contexts.flush()
    contexts._shared.memory.check()
    use = contexts.stat().memory
    assert use.peak <= budget
    assert use.evicted_slots and use.evicted_chunks
    assert before is not None
    assert psutil.Process().memory_info().rss - before <= 1.05 * budget + (16 << 20)


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


def test_chunks_take_no_memory_where_storage_is_fast(
    open_contexts: Callable[..., Contexts], model: ElasticModel
) -> None:
    """Reading them goes on while others are decoded; slots are all that saves time."""
    contexts = open_contexts(bits=None, storage=StorageProfile(1e11, 0.0))
    context = contexts.create("app")
    context.call(np.random.default_rng(3).integers(6, 300, 200).tolist(), max_tokens=2)
    contexts.flush()
    use = contexts.stat().memory
    assert (use.slots, use.chunks) == (1, 0)
    assert contexts.stat().store.num_chunks > 2
