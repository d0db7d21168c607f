"""Calls of contexts against the model given the whole history as one prompt."""

import threading
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from pliant.contexts.call import CallRequest
from pliant.contexts.context import Context
from pliant.contexts.contexts import Contexts
from pliant.contexts.identity import CHUNK_TOKENS
from pliant.engine.model import ElasticModel
from pliant.errors import (
    BusyError,
    ContextOverflowError,
    ContextsInUseError,
    MemoryBudgetError,
    RequestError,
    UnknownContextError,
    UnknownLevelError,
)
from support.evictions import empty_slots, forget_memory

Open = Callable[..., Contexts]
RANDOM = np.random.default_rng(3)


def tokens(count: int) -> list[int]:
    return RANDOM.integers(6, 300, count).tolist()


def history(contexts: Contexts, context: Context) -> list[int]:
    return list(contexts._shared.journal.history(context.id).tokens)


def levels(contexts: Contexts, context: Context) -> list[float]:
    return list(contexts._shared.journal.history(context.id).levels)


@pytest.mark.parametrize("evict", [None, empty_slots, forget_memory])
@pytest.mark.parametrize("level", [1.0, 0.5])
def test_answers_equal_those_to_the_whole_history(
    open_contexts: Open, model: ElasticModel, evict, level: float
) -> None:
    contexts = open_contexts()
    context = contexts.create("app")
    for count in (150, 3, 70, 1):
        before = history(contexts, context)
        new = tokens(count)
        answer = context.call(new, level=level, max_tokens=9)
        assert list(answer.tokens) == list(
            model.generate([*before, *new], level=level, max_tokens=9).tokens
        )
        assert history(contexts, context) == [*before, *new, *answer.tokens]
        if evict:
            evict(contexts)
        contexts._shared.memory.check()
    if evict is None:
        assert contexts.stat().restores == 0
    else:
        source = "from_memory" if evict is empty_slots else "from_disk"
        assert contexts.stat().restored_tokens[source] > 400
        assert contexts.stat().restored_tokens["recomputed"] == 0


def test_contexts_survive_the_process_and_apps_are_apart(
    open_contexts: Open, model: ElasticModel
) -> None:
    first = open_contexts()
    context = first.create("notes", title="today")
    new = tokens(200)
    answer = context.call(new, max_tokens=5)
    before = history(first, context)
    first.close()
    second = open_contexts()
    [info] = second.list("notes")
    assert (info.id, info.title, info.num_tokens) == (context.id, "today", len(before))
    assert second.list("mail") == []
    with pytest.raises(UnknownContextError):
        second.open("mail", context.id)
    again = second.open("notes", context.id)
    more = tokens(40)
    expected = model.generate([*new, *answer.tokens, *more], max_tokens=8)
    assert again.call(more, max_tokens=8).tokens == expected.tokens
    assert second.stat().restored_tokens["from_disk"] == len(before) - 1


def test_forks_share_what_is_stored_and_go_their_own_way(
    open_contexts: Open, model: ElasticModel
) -> None:
    contexts = open_contexts()
    context = contexts.create("app")
    context.call(tokens(3 * CHUNK_TOKENS), max_tokens=4)
    forget_memory(contexts)
    chunks = contexts.stat().store.num_chunks
    fork = context.fork()
    before = history(contexts, fork)
    assert before == history(contexts, context)
    left, right = tokens(20), tokens(20)
    a, b = context.call(left, max_tokens=6), fork.call(right, max_tokens=6)
    assert a.tokens == model.generate([*before, *left], max_tokens=6).tokens
    assert b.tokens == model.generate([*before, *right], max_tokens=6).tokens
    contexts.flush()
    # The two leftovers are new, the whole chunks are not stored again.
    assert contexts.stat().store.num_chunks <= chunks + 3
    context.delete()
    forget_memory(contexts)
    more = tokens(5)
    expected = model.generate([*history(contexts, fork), *more], max_tokens=6).tokens
    assert fork.call(more, max_tokens=6).tokens == expected
    assert contexts.stat().restored_tokens["recomputed"] == 0
    with pytest.raises(UnknownContextError):
        context.call(more)


def test_many_contexts_in_little_memory(open_contexts: Open, model: ElasticModel) -> None:
    """Ten contexts of about 200 tokens in the memory of two; three slots."""
    token_bytes = model.engine.kv_bytes(1)
    contexts = open_contexts(memory_bytes=400 * token_bytes, bits=8)
    opened = [contexts.create(f"app{i % 3}") for i in range(10)]
    for context in opened:
        context.call(tokens(180), max_tokens=3)
    for _ in range(40):
        context = opened[RANDOM.integers(len(opened))]
        context.call(tokens(2), max_tokens=2)
        contexts._shared.memory.check()
    contexts.flush()
    contexts._shared.memory.check()
    use = contexts.stat().memory
    assert use.peak <= use.budget
    assert use.evicted_slots > 10
    for context in opened:
        before = history(contexts, context)
        call = context.start(CallRequest(tokens(4), max_tokens=1))
        list(call.run())
        assert call.restored.recomputed == 0
        assert len(before) <= 300


def test_a_context_larger_than_the_budget_is_refused(open_contexts: Open, model) -> None:
    contexts = open_contexts(memory_bytes=100 * model.engine.kv_bytes(1))
    context = contexts.create("app")
    with pytest.raises(MemoryBudgetError, match="--context-memory"):
        context.call(tokens(90), max_tokens=20)
    assert history(contexts, context) == []
    assert len(context.call(tokens(90), max_tokens=10).tokens) <= 10


@pytest.mark.parametrize("how", ["close", "cancel", "error"])
def test_a_call_that_does_not_end_leaves_the_context_as_it_was(
    open_contexts: Open, model: ElasticModel, how: str
) -> None:
    contexts = open_contexts()
    context = contexts.create("app")
    context.call(tokens(100), level=0.5, max_tokens=5)
    before = history(contexts, context), levels(contexts, context)
    cancel = threading.Event()
    stream = context.stream(tokens(30), level=1.0, max_tokens=50, cancel=cancel)
    next(stream)
    with pytest.raises(BusyError):
        context.call(tokens(3))
    if how == "close":
        stream.close()
    elif how == "cancel":
        cancel.set()
        *_, last = stream
        assert last.generation is not None and last.generation.finish_reason == "cancelled"
    else:
        forward, model.engine.forward = model.engine.forward, None  # type: ignore[method-assign]
        with pytest.raises(TypeError):
            list(stream)
        model.engine.forward = forward  # type: ignore[method-assign]
    assert (history(contexts, context), levels(contexts, context)) == before
    new = tokens(10)
    expected = model.generate([*before[0], *new], level=0.5, max_tokens=6)
    assert context.call(new, level=0.5, max_tokens=6).tokens == expected.tokens


def test_the_last_chunk_comes_after_the_commit(open_contexts: Open) -> None:
    contexts = open_contexts()
    context = contexts.create("app")
    for chunk in context.stream(tokens(20), max_tokens=4):
        journaled = len(history(contexts, context))
        assert journaled == (0 if chunk.generation is None else 20 + len(chunk.generation.tokens))


def test_bad_calls_are_refused(open_contexts: Open, model: ElasticModel) -> None:
    contexts = open_contexts()
    context = contexts.create("app")
    with pytest.raises(ContextOverflowError):
        context.call(tokens(1024))
    with pytest.raises(UnknownLevelError):
        context.call(tokens(3), level=0.77)
    for prompt in ("", [], [9999], b"bytes"):
        with pytest.raises(RequestError):
            context.call(prompt)
    context.call("plain text", max_tokens=2)
    with pytest.raises(RequestError, match="bare text"):
        context.call([{"role": "user", "content": "hello"}])
    with pytest.raises(RequestError):
        contexts.create("")
    with pytest.raises(ContextsInUseError):
        Contexts(model, contexts._shared.journal.path.parent)


def test_text_continues_text(open_contexts: Open, model: ElasticModel) -> None:
    contexts = open_contexts()
    context = contexts.create("app")
    first = context.call("Turn on the", max_tokens=3)
    before = history(contexts, context)
    assert before == [*model.encode_prompt("Turn on the"), *first.tokens]
    context.call(" wifi, please", max_tokens=3)
    added = model.tokenizer.encode(" wifi, please", add_bos=False)
    assert history(contexts, context)[: len(before) + len(added)] == [*before, *added]


def test_concurrent_calls_of_several_contexts(open_contexts: Open, model: ElasticModel) -> None:
    contexts = open_contexts()
    prompts = [tokens(120) for _ in range(6)]
    expected = [model.generate(prompt, max_tokens=8).tokens for prompt in prompts]
    opened = [contexts.create("app") for _ in prompts]
    found: dict[int, tuple[int, ...]] = {}

    def run(index: int) -> None:
        found[index] = opened[index].call(prompts[index], max_tokens=8).tokens

    for group in (range(3), range(3, 6)):
        threads = [threading.Thread(target=run, args=(index,)) for index in group]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found[index] for index in range(6)] == expected
    contexts.flush()
    contexts._shared.memory.check()


def test_levels_never_rise_along_a_history(open_contexts: Open) -> None:
    contexts = open_contexts()
    context = contexts.create("app")
    for level in (0.5, 1.0, 0.3, 0.5, 0.5, 1.0, 0.3):
        context.call(tokens(50), level=level, max_tokens=3)
        if RANDOM.integers(2):
            forget_memory(contexts)
        found = levels(contexts, context)
        assert all(a >= b for a, b in pairwise(found))
        assert min(found) == level
