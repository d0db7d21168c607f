"""Restores in pieces: split between disk and computation, damaged, at other levels."""

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pliant.contexts.call import CallRequest
from pliant.contexts.context import Context
from pliant.contexts.contexts import Contexts
from pliant.contexts.planner import RestorePlan
from pliant.contexts.restore import RestoreReport
from pliant.contexts.storage import StorageProfile
from pliant.engine.model import ElasticModel
from support.evictions import empty_slots, forget_memory

Open = Callable[..., Contexts]
RANDOM = np.random.default_rng(5)
# Products over other numbers of tokens add up in another order.
TOLERANCE = 3e-2


def tokens(count: int) -> list[int]:
    return RANDOM.integers(6, 300, count).tolist()


def history(contexts: Contexts, context: Context) -> list[int]:
    return list(contexts._shared.journal.history(context.id).tokens)


def resume(
    context: Context, new: list[int], level: float = 1.0
) -> tuple[RestoreReport, np.ndarray]:
    """What a call restored, and the log-probabilities of its first token's alternatives."""
    call = context.start(CallRequest(new, level=level, max_tokens=1, logprobs=20))
    *_, last = call.run()
    assert last.generation is not None and last.generation.logprobs is not None
    top = sorted(last.generation.logprobs[0].top, key=lambda one: one.token)
    return call.restored, np.array([[one.token, one.logprob] for one in top])


def whole(model: ElasticModel, prompt: list[int], level: float = 1.0) -> np.ndarray:
    answer = model.generate(prompt, level=level, max_tokens=1, logprobs=20)
    assert answer.logprobs is not None
    top = sorted(answer.logprobs[0].top, key=lambda one: one.token)
    return np.array([[one.token, one.logprob] for one in top])


def assert_close(a: np.ndarray, b: np.ndarray) -> None:
    both = set(a[:, 0]) & set(b[:, 0])
    assert len(both) >= 18
    left, right = (dict(side) for side in (a, b))
    assert max(abs(left[t] - right[t]) for t in both) <= TOLERANCE


SPLITS = [
    ("none", lambda i: False),
    ("all", lambda i: True),
    ("every other", lambda i: i % 2 == 1),
    ("the first", lambda i: i < 3),
    ("the last", lambda i: i > 3),
]


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize(("name", "again"), SPLITS, ids=[name for name, _ in SPLITS])
def test_every_split_gives_the_same_answer(
    open_contexts: Open, model: ElasticModel, monkeypatch, name: str, again, steps: int
) -> None:
    contexts = open_contexts()
    context = contexts.create("app")
    context.call(tokens(450), max_tokens=5)
    forget_memory(contexts)

    def split(pieces, *_) -> RestorePlan:
        return RestorePlan(tuple(again(i) for i in range(len(pieces))), steps, 0.0)

    monkeypatch.setattr("pliant.contexts.restore.plan_restore", split)
    new = tokens(7)
    expected = whole(model, [*history(contexts, context), *new])
    report, found = resume(context, new)
    assert_close(found, expected)
    assert report.from_disk + report.recomputed == 454
    assert (report.recomputed > 0) == (name != "none")
    assert (report.from_disk > 0) == (name != "all")


def test_slow_storage_is_helped_by_computing(open_contexts: Open, model: ElasticModel) -> None:
    """Storage that takes as long as computing does: the planner shares the chunks."""
    contexts = open_contexts()
    token_ms = contexts._shared.restorer._costs.latency.levels[-1].prefill.token_ms
    contexts.close()
    bandwidth = model.engine.kv_bytes(1) / (token_ms / 1000)
    contexts = open_contexts(storage=StorageProfile(bandwidth, 0.0))
    context = contexts.create("app")
    context.call(tokens(640), max_tokens=2)
    forget_memory(contexts)
    new = tokens(3)
    expected = whole(model, [*history(contexts, context), *new])
    report, found = resume(context, new)
    assert_close(found, expected)
    assert 64 <= report.recomputed <= 576 and 64 <= report.from_disk <= 576


def damage(how: str, folder: Path) -> None:
    packs = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 20000]
    packs = [path for path in packs if "journal" not in path.name and "index" not in path.name]
    assert packs
    for path in packs:
        if how == "delete":
            path.unlink()
        elif how == "truncate":
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size // 2)
        else:
            data = bytearray(path.read_bytes())
            for place in range(5000, len(data), 40_000):
                data[place] ^= 4
            path.write_bytes(data)


@pytest.mark.parametrize("how", ["delete", "truncate", "flip"])
def test_damaged_chunks_are_computed_again(
    open_contexts: Open, model: ElasticModel, tmp_path: Path, how: str, caplog
) -> None:
    contexts = open_contexts()
    context = contexts.create("app")
    context.call(tokens(600), max_tokens=5)
    forget_memory(contexts)
    damage(how, tmp_path)
    new = tokens(7)
    expected = whole(model, [*history(contexts, context), *new])
    with caplog.at_level(logging.WARNING):
        report, found = resume(context, new)
    assert_close(found, expected)
    stat = contexts.stat().store
    assert report.recomputed > 0 or how == "delete"
    assert stat.corrupt + stat.missing > 0 or report.recomputed == 0
    forget_memory(contexts)
    more = tokens(4)
    expected = whole(model, [*history(contexts, context), *more])
    report, found = resume(context, more)
    assert_close(found, expected)


def test_what_was_computed_again_is_stored_again(
    open_contexts: Open, model: ElasticModel, tmp_path: Path
) -> None:
    contexts = open_contexts()
    context = contexts.create("app")
    context.call(tokens(300), max_tokens=5)
    forget_memory(contexts)
    contexts._shared.store.drop_context(context.id)
    resume(context, tokens(3))
    forget_memory(contexts)
    report, _ = resume(context, tokens(3))
    assert report.recomputed == 0 and report.from_disk > 300


@pytest.mark.parametrize("place", [None, empty_slots, forget_memory])
def test_a_lower_level_takes_a_prefix_of_the_heads(
    open_contexts: Open, model: ElasticModel, place
) -> None:
    contexts = open_contexts()
    context = contexts.create("app")
    context.call(tokens(300), level=1.0, max_tokens=2)
    if place:
        place(contexts)
    report, _ = resume(context, tokens(3), level=0.3)
    assert report.recomputed == 0
    full_bytes = model.engine.kv_bytes(301)
    if place is forget_memory:
        assert 0 < report.read_bytes < 0.5 * full_bytes
    # The heads that the lower level left out are still there for the full one; what follows the
    # last whole chunk is not, and is computed with the prompt.
    levels = contexts._shared.journal.history(context.id).levels
    assert set(levels[:256]) == {1.0} and levels[-1] == 0.3
    if place is not None:
        report, _ = resume(context, tokens(3), level=1.0)
        assert report.recomputed == 0 and report.from_disk + report.from_memory == 256


@pytest.mark.parametrize("place", [None, empty_slots, forget_memory])
def test_a_higher_level_computes_again_what_was_lower(
    open_contexts: Open, model: ElasticModel, place
) -> None:
    contexts = open_contexts()
    context = contexts.create("app")
    context.call(tokens(200), level=1.0, max_tokens=2)
    context.call(tokens(100), level=0.5, max_tokens=2)
    if place:
        place(contexts)
    new = tokens(3)
    expected = whole(model, [*history(contexts, context), *new])
    report, found = resume(context, new)
    assert_close(found, expected)
    assert report.recomputed <= 100 + 64
    levels = contexts._shared.journal.history(context.id).levels
    assert set(levels) == {1.0}
    forget_memory(contexts)
    report, _ = resume(context, tokens(2))
    assert report.recomputed == 0


def test_random_levels_and_evictions_never_mix_what_does_not_belong(
    open_contexts: Open, model: ElasticModel
) -> None:
    """Calls at the full level equal the whole history at the full level, whatever was before."""
    contexts = open_contexts()
    context = contexts.create("app")
    for step in range(14):
        level = float(RANDOM.choice([0.3, 0.5, 1.0])) if step % 2 else 1.0
        new = tokens(int(RANDOM.integers(1, 80)))
        before = history(contexts, context)
        _, found = resume(context, new, level)
        if level == 1.0:
            assert_close(found, whole(model, [*before, *new]))
        evict = RANDOM.choice([None, empty_slots, forget_memory])
        if evict:
            evict(contexts)
        levels = contexts._shared.journal.history(context.id).levels
        assert all(a >= b for a, b in pairwise(levels))
        contexts._shared.memory.check()


def test_the_predicted_cost_sees_the_level(open_contexts: Open) -> None:
    """A level above what there is costs computing; a lower one costs reading less."""
    contexts = open_contexts(storage=StorageProfile(2e6, 0.0))
    context = contexts.create("app")
    context.call(tokens(400), level=0.5, max_tokens=2)
    forget_memory(contexts)
    shared = contexts._shared
    from pliant.contexts.history import extend
    from pliant.contexts.work import Work

    pieces = shared.journal.pieces(context.id)
    work = Work(shared, context.stat(), pieces, extend(shared.model, pieces, tokens(5)))
    assert work.context_tokens == 401
    predicted = work.predict_restore_ms(shared.model.levels)
    assert predicted[0.3] < predicted[0.5] < predicted[1.0]
