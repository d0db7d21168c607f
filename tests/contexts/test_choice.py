"""Levels of calls with an SLO: what they are chosen by, and what calls teach."""

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from pliant.contexts import CallReport, CallRequest, ContextOptions
from pliant.contexts.context import Context
from pliant.contexts.contexts import Contexts
from pliant.contexts.storage import StorageProfile
from pliant.engine.model import ElasticModel
from pliant.errors import RequestError, SloUnreachableError
from pliant.slo import OnlineLatency, Orchestrator, Slo, open_orchestrator
from support.evictions import empty_slots, forget_memory
from support.synthetic_latency import make_latency
from support.tiny_bundle import RATIOS

RANDOM = np.random.default_rng(5)
# Far slower than the model is, so that what anything really takes counts for nothing beside it.
SLOW = make_latency(RATIOS, slowness=1e4)
LOOSE = Slo(ttft_ms=1e8, tpot_ms=1e8)

Choosing = Callable[..., Contexts]


@pytest.fixture
def choosing(model: ElasticModel, tmp_path: Path):
    """Opens lossless contexts with an orchestrator that believes in these latencies."""
    opened: list[Contexts] = []

    def open_them(base=SLOW) -> Contexts:
        options = ContextOptions(bits=16, storage=StorageProfile(3e7, 0.0))
        orchestrator = Orchestrator(model, OnlineLatency(base))
        root = tmp_path / "contexts"
        opened.append(Contexts(model, root, options, orchestrator=orchestrator))
        return opened[-1]

    yield open_them
    for contexts in opened:
        contexts.close()


def tokens(count: int) -> list[int]:
    return RANDOM.integers(6, 300, count).tolist()


def are_near(pairs: Iterable[tuple[float | None, float | None]]) -> bool:
    """Whether most of (predicted, measured) agree as far as they can on a busy machine; what is
    wrong here is wrong by far more."""
    return 1 / 40 < median(predicted / measured for predicted, measured in pairs) < 40


def call(context: Context, count: int, **request) -> CallReport:
    made = context.start(CallRequest(tokens(count), max_tokens=4, **request))
    assert made.report is None
    *_, last = made.run()
    report = made.report
    assert report is not None and last.generation is not None
    assert (report.ttft_ms, report.level) == (last.generation.ttft_ms, last.generation.level)
    return report


def test_the_largest_level_in_time_is_taken_by_the_models_costs(choosing: Choosing) -> None:
    context = choosing().create("app")
    # Costs are in proportion to levels: 0.6 of the full model's are enough for 0.5 alone.
    report = call(context, 100, slo=Slo(ttft=0.6, tpot=0.6))
    assert (
        report.level == 0.5
        and report.why == "the whole prompt at the largest level of the 2 feasible of 3"
    )
    decision = report.decision
    assert decision is not None
    assert report.predicted_tpot_ms == pytest.approx(SLOW.predict_tpot(0.5, 102))
    assert report.predicted_ttft_ms == pytest.approx(SLOW.predict_ttft(0.5, 100), rel=1e-3)
    assert report.is_slo_met
    assert not call(context, 5, slo=Slo(ttft_ms=1e-4)).is_slo_met


def test_what_a_level_must_compute_again_counts_against_it(choosing: Choosing) -> None:
    """300 tokens at level 0.5 are no use to the full model, which would be in time without."""
    contexts = choosing()
    fresh, used = contexts.create("app"), contexts.create("app")
    call(used, 300, level=0.5)
    call(fresh, 300, level=1.0)
    limit = Slo(ttft_ms=2 * SLOW.predict_ttft(1.0, 5, 303))
    assert call(fresh, 5, slo=limit).level == 1.0
    report = call(used, 5, slo=limit)
    assert report.level == 0.5
    assert report.decision is not None
    highest = report.decision.candidates[-1]
    assert highest.level == 1.0 and not highest.feasible
    assert highest.predicted_ttft_ms > SLOW.predict_ttft(1.0, 300)


def test_predictions_follow_what_calls_take(choosing: Choosing) -> None:
    """The device is taken for 10,000 times slower than it is."""
    contexts = choosing()
    context = contexts.create("app")
    first, *_ = reports = [call(context, 30, slo=LOOSE) for _ in range(12)]
    assert first.predicted_ttft_ms > 1000 * first.ttft_ms
    assert are_near((r.predicted_ttft_ms, r.ttft_ms) for r in reports[-5:])
    assert are_near((r.predicted_tpot_ms, r.tpot_ms) for r in reports[-5:])
    sides = {(r.side, r.level) for r in contexts.orchestrator().latency.errors()}
    assert sides == {("ttft", 1.0), ("tpot", 1.0)}


def test_calls_at_a_named_level_are_predicted_and_teach_too(choosing: Choosing) -> None:
    contexts = choosing()
    context = contexts.create("app")
    reports = [call(context, 30, level=0.3) for _ in range(12)]
    assert reports[0].why == "no limit: level 0.3 and the whole prompt"
    assert are_near((r.predicted_ttft_ms, r.ttft_ms) for r in reports[-5:])
    assert contexts.orchestrator().latency.ttft_factor(1.0) < 0.1


def test_restores_teach_what_restores_take(choosing: Choosing) -> None:
    """Those of the first 150 tokens always take 500 ms, whatever was planned."""
    contexts = choosing()
    restorer = contexts._shared.restorer
    restore = restorer.restore
    restorer.restore = lambda *a: replace(restore(*a), ms=500.0)  # type: ignore[method-assign]
    context = contexts.create("app")
    call(context, 150, level=1.0)
    latency = contexts.orchestrator().latency
    for _ in range(12):
        empty_slots(contexts)
        factor = latency.restore_factor(1.0)
        report = call(context, 1, level=1.0)
        assert report.restored.from_memory == report.context_tokens
    assert factor * report.restored.predicted_ms == pytest.approx(500.0, rel=0.5)
    assert report.restored.predicted_ms < 100


def test_a_restore_is_not_taken_for_prefill(choosing: Choosing, model: ElasticModel) -> None:
    """One that takes a quarter of a second teaches nothing about the time to compute a prompt."""
    contexts = choosing()
    context = contexts.create("app")
    for _ in range(9):
        call(context, 30, slo=LOOSE)
    latency = contexts.orchestrator().latency
    before = latency.ttft_factor(1.0)
    empty_slots(contexts)
    restorer = contexts._shared.restorer
    restore = restorer.restore

    def slow(*arguments):
        time.sleep(0.25)
        return replace(restore(*arguments), ms=250.0)

    restorer.restore = slow  # type: ignore[method-assign]
    for _ in range(4):
        report = call(context, 30, slo=LOOSE)
        empty_slots(contexts)
        assert report.ttft_ms > 250
    assert latency.ttft_factor(1.0) < 20 * before


def test_reports_say_where_the_history_came_from(choosing: Choosing) -> None:
    contexts = choosing()
    context = contexts.create("app")
    assert call(context, 200, level=0.5).context_tokens == 0
    found = []
    for evict, level in (
        (None, 0.5), (empty_slots, 0.5), (forget_memory, 0.5), (None, 1.0), (forget_memory, 0.3),
    ):  # fmt: skip
        if evict:
            evict(contexts)
        length = context.stat().num_tokens
        report = call(context, 3, level=level)
        assert report.context_tokens == length - 1
        sources = report.from_slot, report.restored.from_memory, report.restored.from_disk
        found.append([count == length - 1 for count in (*sources, report.computed)])
    assert [row.index(True) for row in found] == [0, 1, 2, 3, 2]


def test_what_is_lost_counts_as_computed(choosing: Choosing) -> None:
    contexts = choosing()
    context = contexts.create("app")
    call(context, 200, level=1.0)
    forget_memory(contexts)
    contexts._shared.store.drop_context(context.id)
    report = call(context, 3, level=1.0)
    assert report.computed == report.context_tokens == 203
    assert report.restored.recomputed == 0  # They were computed together with the prompt.


def test_strict_calls_are_refused_and_change_nothing(choosing: Choosing) -> None:
    context = choosing().create("app")
    call(context, 50, level=1.0)
    before = context.stat()
    with pytest.raises(SloUnreachableError) as raised:
        call(context, 5, slo=Slo(ttft_ms=0.01), policy="strict")
    assert context.stat() == before
    with pytest.raises(RequestError, match="either slo or level"):
        call(context, 5, slo=LOOSE, level=0.5)
    assert call(context, 5, slo=Slo(**raised.value.reachable), policy="strict").is_slo_met


def test_the_device_is_measured_before_the_first_call_with_an_slo_begins(
    model: ElasticModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLIANT_CACHE", str(tmp_path / "cache"))
    short = partial(open_orchestrator, budget_s=2.0)
    monkeypatch.setattr("pliant.contexts.choice.open_orchestrator", short)
    told: list[float] = []
    options = ContextOptions(storage=StorageProfile(1e10, 0.0))
    root = tmp_path / "contexts"
    with Contexts(model, root, options, before_calibration=told.append) as contexts:
        context = contexts.create("app")
        first = call(context, 50, level=0.5)
        assert first.decision is None and first.predicted_ttft_ms is None and first.is_slo_met
        assert first.why == "no SLO was given" and told == []
        second = call(context, 50, slo=LOOSE)
        assert told == [2.0]
        assert second.level == 1.0 and second.is_slo_met and second.ttft_ms < 1500
        assert contexts._shared.restorer._costs.latency is contexts.orchestrator().latency.base
        assert call(context, 50, level=0.5).decision is not None
        assert told == [2.0]
