"""Decisions on a real model with the latencies of a synthetic one."""

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from pliant import ElasticModel, EngineOptions, load
from pliant.errors import (
    BundleError,
    ContextOverflowError,
    RequestError,
    SloUnreachableError,
    UnknownLevelError,
)
from pliant.slo import EncodeCost, OnlineLatency, Orchestrator, Slo, State, Strategy
from pliant.tlm.protect import EVERYTHING, STRUCTURE
from support.readers import FixedReader
from support.synthetic_latency import make_latency
from support.tiny_bundle import RATIOS, make_tiny_bundle

SYSTEM = {"role": "system", "content": "Answer from the notifications."}
WORDS = "the message from the station says that all trains are late because of the weather and "
PROMPT = [SYSTEM, {"role": "user", "content": WORDS * 4 + "\nWhat does the message say?"}]
BASE = replace(
    make_latency(RATIOS), reading=EncodeCost(0.2, 0.001), compressing=EncodeCost(0.1, 0.001)
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ElasticModel]:
    bundle = make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", context=1024)
    with load(bundle.path, EngineOptions(threads=1)) as model:
        yield model


def _reader(**options: Any) -> FixedReader:
    return FixedReader(levels=RATIOS, **options)


def _orchestrator(model: ElasticModel, tlm: FixedReader | None = None, **more: Any) -> Orchestrator:
    """One that asks its TLM whenever there is something to choose."""
    options = {"latency": OnlineLatency(BASE), "whole_from": math.inf, **more}
    return Orchestrator(model, tlm=tlm, **options)


def _pair(strategy: Strategy) -> tuple[float, float]:
    return strategy.level, strategy.prompt_ratio


def test_the_decision_heads_favourite_is_taken_if_it_is_feasible(model: ElasticModel) -> None:
    reader = _reader(level=0.5, prompt_ratio=0.7)
    decision = _orchestrator(model, reader).decide(PROMPT, Slo(0.8, 0.8), max_tokens=8)
    assert _pair(decision.strategy) == (0.5, 0.7)
    assert decision.strategy.feasible and decision.reading is not None
    assert len(decision.candidates) == 30
    assert "decision head" in decision.why and "feasible of 30" in decision.why
    [(text, ttft, tpot)] = reader.asked
    assert text == f"{SYSTEM['content']}\n{PROMPT[1]['content']}"
    assert (ttft, tpot) == pytest.approx((0.8, 0.8))


@pytest.mark.parametrize(("slo", "level"), [(Slo(0.8, 0.8), 0.5), (Slo(0.4, 0.6), None)])
def test_the_tlm_is_not_asked_where_half_the_model_has_time_for_the_whole_prompt(
    model: ElasticModel, slo: Slo, level: float | None
) -> None:
    reader = _reader(level=0.3, prompt_ratio=0.6)
    decision = _orchestrator(model, reader, whole_from=0.5).decide(PROMPT, slo, max_tokens=8)
    if level is None:
        assert _pair(decision.strategy) == (0.3, 0.6) and len(reader.asked) == 1
    else:
        assert _pair(decision.strategy) == (level, 1.0) and reader.asked == []
        assert decision.prompt is PROMPT and "whole prompt at the largest level" in decision.why


def test_a_survey_has_every_pair_and_asks_even_where_deciding_does_not(
    model: ElasticModel,
) -> None:
    reader = _reader(level=0.3, prompt_ratio=0.6)
    survey = _orchestrator(model, reader, whole_from=0.5).survey(
        PROMPT, Slo(0.8, 0.8), max_tokens=8
    )
    assert len(survey.candidates) == 30 and survey.is_feasible
    assert survey.reading is not None and len(reader.asked) == 1


def test_what_is_run_is_the_prompt_shortened_and_still_messages(model: ElasticModel) -> None:
    orchestrator = _orchestrator(model, _reader(level=0.5, prompt_ratio=0.5))
    decision = orchestrator.decide(PROMPT, Slo(0.8, 0.8), max_tokens=8)
    short = decision.prompt
    assert [message["role"] for message in short] == ["system", "user"]  # type: ignore[call-overload, index]
    assert short[0] == SYSTEM and short[1]["content"].endswith("What does the message say?")  # type: ignore[call-overload, index]
    assert decision.tokens == model.encode_prompt(short)
    assert len(decision.tokens) <= decision.strategy.prompt_tokens
    assert decision.prompt_ratio == pytest.approx(0.5, abs=0.05)
    assert decision.read_ms > 0 and decision.compress_ms > 0
    assert decision.read_ms + decision.compress_ms <= decision.decide_ms


def test_a_favourite_that_is_too_slow_gives_way(model: ElasticModel) -> None:
    orchestrator = _orchestrator(model, _reader(level=1.0, prompt_ratio=1.0))
    strategy = orchestrator.decide(PROMPT, Slo(0.4, 0.6), max_tokens=8).strategy
    assert strategy.feasible and _pair(strategy) == (0.3, 1.0)


def test_a_looser_slo_is_never_decided_worse(model: ElasticModel) -> None:
    """By the opinion of the heads, which here do not depend on the SLO."""
    reader = _reader(level=0.9, prompt_ratio=0.9)
    reading = reader.read("")
    worth = []
    for share in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        found = _orchestrator(model, reader).decide(PROMPT, Slo(share, share), max_tokens=8)
        of_level = reading.levels[RATIOS.index(found.strategy.level)]
        ratio = reader.prompt_ratios.index(found.strategy.prompt_ratio)
        worth.append(of_level * reading.prompt_ratios[ratio])
    assert worth == sorted(worth) and worth[0] < worth[-1]


def test_without_a_tlm_the_largest_level_reads_the_whole_prompt(model: ElasticModel) -> None:
    decision = _orchestrator(model).decide(PROMPT, Slo(0.8, 0.8), max_tokens=8)
    assert _pair(decision.strategy) == (0.5, 1.0)
    assert decision.prompt is PROMPT and decision.reading is None
    assert decision.prompt_ratio == 1.0 and decision.kept is None
    assert "largest level" in decision.why


@pytest.mark.parametrize("slo", [Slo(), Slo(1.0, 1.0)])
def test_without_a_limit_nothing_is_given_up_nor_read(model: ElasticModel, slo: Slo) -> None:
    reader = _reader(level=0.3, prompt_ratio=0.1)
    decision = _orchestrator(model, reader).decide(PROMPT, slo, max_tokens=8)
    assert _pair(decision.strategy) == (1.0, 1.0) and reader.asked == []
    assert decision.why.startswith("no limit")


def test_where_there_is_no_time_to_read_the_rule_decides(model: ElasticModel) -> None:
    slow = replace(BASE, reading=EncodeCost(1000.0, 0.0))
    reader = _reader()
    orchestrator = Orchestrator(model, OnlineLatency(slow), reader)
    decision = orchestrator.decide(PROMPT, Slo(0.8, 0.8), max_tokens=8)
    assert _pair(decision.strategy) == (0.5, 1.0)
    assert decision.strategy.feasible and reader.asked == []


def test_compression_can_be_off_or_forced(model: ElasticModel) -> None:
    reader = _reader(level=0.3, prompt_ratio=0.2)
    orchestrator = _orchestrator(model, reader)
    off = orchestrator.decide(PROMPT, Slo(0.8, 0.8), max_tokens=8, compression="off")
    assert _pair(off.strategy) == (0.5, 1.0) and reader.asked == []
    forced = orchestrator.decide(PROMPT, Slo(0.8, 0.8), max_tokens=8, compression=0.65)
    assert _pair(forced.strategy) == (0.3, 0.65)
    assert forced.prompt_ratio == pytest.approx(0.65, abs=0.05)
    free = orchestrator.decide(PROMPT, Slo(), max_tokens=8, compression=0.65)
    assert free.prompt_ratio == pytest.approx(0.65, abs=0.05)


@pytest.mark.parametrize("compression", [0, -0.5, 1.5, float("nan"), True, "most"])
def test_bad_compression_is_refused(model: ElasticModel, compression: Any) -> None:
    with pytest.raises(RequestError, match="compression is .*; allowed: auto, off"):
        _orchestrator(model, _reader()).decide(PROMPT, Slo(), max_tokens=8, compression=compression)


def test_what_cannot_be_shortened_is_said_if_that_was_asked(model: ElasticModel) -> None:
    with pytest.raises(RequestError, match="no TLM"):
        _orchestrator(model).decide(PROMPT, Slo(0.8), max_tokens=8, compression=0.5)
    tokens, reader = [7, 8, 9] * 30, _reader()
    with pytest.raises(RequestError, match="token ids"):
        _orchestrator(model, reader).decide(tokens, Slo(0.8), max_tokens=8, compression=0.5)
    decision = _orchestrator(model, reader).decide(tokens, Slo(0.8), max_tokens=8)
    assert _pair(decision.strategy) == (0.5, 1.0) and reader.asked == []


def test_protected_parts_set_a_floor_to_the_prompt(model: ElasticModel) -> None:
    numbers = [{"role": "user", "content": "1 22 333 4444 55555 " * 12 + "\nWhich?"}]
    decisions = [
        _orchestrator(model, _reader(level=0.3, prompt_ratio=0.1), **options).decide(
            numbers, Slo(0.8, 0.8), max_tokens=8
        )
        for options in ({}, {"protect": EVERYTHING})
    ]
    assert decisions[0].prompt_ratio < 0.35
    assert decisions[1].prompt_ratio > 0.9
    for decision in decisions:
        floors = {s.prompt_tokens for s in decision.candidates if s.prompt_ratio == 0.1}
        [floor] = floors
        assert floor == pytest.approx(len(decision.tokens), abs=2)


def test_a_request_can_name_what_stays(model: ElasticModel) -> None:
    text = "all buses and trains << wait here today >> for the snow to melt away " * 3
    asked = [{"role": "user", "content": text + "\nWhich?"}]
    orchestrator = _orchestrator(model, _reader(level=0.3, prompt_ratio=0.1))
    marked = replace(STRUCTURE, markers=(("<<", ">>"),))
    kept = []
    for protect in (marked, None):
        decision = orchestrator.decide(asked, Slo(0.8, 0.8), max_tokens=8, protect=protect)
        kept.append(decision.prompt[0]["content"].count("<< wait here today >>"))  # type: ignore[call-overload, index]
    assert kept == [3, 0]
    answer = orchestrator.answer(asked, Slo(0.8, 0.8), max_tokens=1, protect=EVERYTHING)
    assert answer.decision.prompt_ratio < 1


def test_decisions_from_several_threads_are_those_of_one(model: ElasticModel) -> None:
    orchestrator = _orchestrator(model, _reader(level=0.3, prompt_ratio=0.4))
    slos = [Slo(share, share) for share in (0.01, 0.4, 0.6, 0.8, 1.0)] * 8

    def decided(slo: Slo) -> tuple[Strategy, Sequence[int]]:
        decision = orchestrator.decide(PROMPT, slo, max_tokens=8)
        return decision.strategy, decision.tokens

    expected = [decided(slo) for slo in slos]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(decided, slos)) == expected
    with ThreadPoolExecutor(model.engine.num_slots) as pool:
        answers = list(pool.map(lambda slo: orchestrator.answer(PROMPT, slo, max_tokens=2), slos))
    ttfts = [e.count for e in orchestrator.latency.errors() if e.side == "ttft"]
    assert sum(ttfts) == len(answers) == 40


def test_strict_refuses_what_best_effort_flags(model: ElasticModel) -> None:
    orchestrator = _orchestrator(model, _reader())
    slo = Slo(ttft_ms=0.01)
    decision = orchestrator.decide(PROMPT, slo, max_tokens=8)
    assert not decision.strategy.feasible and decision.strategy.level == 0.3
    assert "nothing is predicted to meet the SLO" in decision.why
    with pytest.raises(SloUnreachableError) as raised:
        orchestrator.decide(PROMPT, slo, max_tokens=8, policy="strict")
    reachable = Slo(**raised.value.reachable)
    assert orchestrator.decide(PROMPT, reachable, max_tokens=8, policy="strict").strategy.feasible


@pytest.mark.parametrize("policy", ["best_effort", "strict"])
def test_what_reading_would_only_delay_is_not_read(model: ElasticModel, policy: Any) -> None:
    """The closest is then the whole prompt at the smallest level, and the smallest SLO its own."""
    slow = replace(BASE, reading=EncodeCost(50.0, 0.0))
    reader = _reader(level=0.3, prompt_ratio=0.1)
    orchestrator = _orchestrator(model, reader, latency=OnlineLatency(slow))
    slo = Slo(ttft_ms=0.01)
    whole = min(orchestrator.decide(PROMPT, slo, max_tokens=8, compression="off").candidates,
                key=lambda s: s.predicted_ttft_ms)  # fmt: skip
    if policy == "strict":
        with pytest.raises(SloUnreachableError) as raised:
            orchestrator.decide(PROMPT, slo, max_tokens=8, policy=policy)
        margin = orchestrator.latency.margins.ttft
        least_ms = whole.predicted_ttft_ms * (1 + margin)
        assert raised.value.reachable["ttft_ms"] == pytest.approx(least_ms, rel=0.01)
    else:
        decision = orchestrator.decide(PROMPT, slo, max_tokens=8, policy=policy)
        assert decision.strategy == whole and decision.prompt is PROMPT
    assert reader.asked == []
    survey = orchestrator.survey(PROMPT, slo, max_tokens=8)
    assert survey.reading is not None and len(survey.candidates) == 30


def test_an_slo_out_of_reach_for_tpot_does_not_cost_the_prompt(model: ElasticModel) -> None:
    orchestrator = _orchestrator(model, _reader(level=0.3, prompt_ratio=1.0))
    decision = orchestrator.decide(PROMPT, Slo(ttft=0.9, tpot_ms=0.001), max_tokens=8)
    assert decision.strategy.level == 0.3 and decision.strategy.prompt_ratio >= 0.9


@pytest.mark.parametrize("slo", [Slo(), Slo(0.8, 0.8), Slo(ttft_ms=1e5)])
def test_a_named_level_is_the_only_one_to_choose_from(model: ElasticModel, slo: Slo) -> None:
    decision = _orchestrator(model, _reader(prompt_ratio=0.7)).decide(
        PROMPT, slo, max_tokens=8, level=0.3
    )
    assert {s.level for s in decision.candidates} == {0.3}
    assert decision.strategy.prompt_ratio == (1.0 if slo == Slo() else 0.7)
    with pytest.raises(UnknownLevelError):
        _orchestrator(model).decide(PROMPT, slo, max_tokens=8, level=0.35)


def test_a_tlm_of_other_levels_is_refused(model: ElasticModel) -> None:
    with pytest.raises(BundleError, match=r"0\.2, .*but the model has 0\.3, 0\.5, 1"):
        _orchestrator(model, FixedReader())


def test_answers_end_where_the_context_does(model: ElasticModel) -> None:
    orchestrator = _orchestrator(model)
    room = model.engine.context_length - model.count_tokens(PROMPT)
    assert orchestrator.decide(PROMPT, Slo(), max_tokens=10**6).max_tokens == room
    state = State(context_tokens=room - 3)
    assert orchestrator.decide(PROMPT, Slo(), max_tokens=99, state=state).max_tokens == 3
    with pytest.raises(ContextOverflowError):
        orchestrator.decide(PROMPT, Slo(), max_tokens=9, state=State(context_tokens=room))


@pytest.mark.parametrize("text", ["a", "?", "日本語のテキスト", "x" * 300])
def test_odd_prompts_are_decided_and_never_get_longer(model: ElasticModel, text: str) -> None:
    for prompt in (text, [{"role": "user", "content": text}]):
        decision = _orchestrator(model, _reader(prompt_ratio=0.1)).decide(
            prompt, Slo(0.5, 0.6), max_tokens=8
        )
        assert 0 < len(decision.tokens) <= model.count_tokens(prompt)


def test_answers_are_timed_from_arrival_and_learned_from(model: ElasticModel) -> None:
    """The model's own times have nothing to do with those that it was calibrated to."""
    orchestrator = _orchestrator(model, _reader(seconds=0.05))
    slo = Slo(ttft_ms=1e6, tpot_ms=1e6)
    answer = orchestrator.answer(PROMPT, slo, max_tokens=6)
    assert answer.decision.read_ms >= 50
    assert answer.ttft_ms == answer.decision.decide_ms + answer.generation.ttft_ms
    assert answer.is_slo_met and len(answer.generation.tokens) > 0
    for _ in range(9):
        orchestrator.answer(PROMPT, slo, max_tokens=6)
    again = orchestrator.answer(PROMPT, slo, max_tokens=6)
    predicted_ms = again.decision.strategy.predicted_ttft_ms
    assert predicted_ms > 5 * answer.decision.strategy.predicted_ttft_ms
    assert predicted_ms == pytest.approx(again.ttft_ms, rel=0.8)
    sides = {(report.side, report.level) for report in orchestrator.latency.errors()}
    assert sides == {("reading", 1.0), ("ttft", 0.5), ("tpot", 0.5)}
    # A slow TLM is no slow level: what need not be read is not expected to wait for it.
    unread = orchestrator.decide(PROMPT, slo, max_tokens=6, compression="off")
    assert unread.strategy.predicted_ttft_ms < predicted_ms / 2


def test_a_stream_ends_with_its_answer_and_can_be_closed(model: ElasticModel) -> None:
    orchestrator = _orchestrator(model)
    stream = orchestrator.stream(PROMPT, Slo(), max_tokens=5)
    assert stream.answer is None
    texts = [chunk.text for chunk in stream]
    assert stream.answer is not None
    assert "".join(texts) == stream.answer.generation.text
    assert stream.answer.generation.text == model.generate(PROMPT, max_tokens=5).text
    cut = orchestrator.stream(PROMPT, Slo(), max_tokens=5)
    next(cut)
    cut.close()
    assert cut.answer is None
    with model.lease_slot():
        pass


def test_nothing_is_learned_from_an_answer_that_never_began(model: ElasticModel) -> None:
    class Cancelled:
        def is_set(self) -> bool:
            return True

    orchestrator = _orchestrator(model)
    orchestrator.answer(PROMPT, Slo(), max_tokens=5, cancel=Cancelled())
    assert orchestrator.latency.errors() == ()


def test_deciding_takes_little_time(model: ElasticModel) -> None:
    orchestrator = _orchestrator(model, _reader())
    orchestrator.decide(PROMPT, Slo(0.8, 0.8), max_tokens=8)
    begun = time.perf_counter()
    for _ in range(10):
        orchestrator.decide(PROMPT, Slo(0.8, 0.8), max_tokens=8)
    assert time.perf_counter() - begun < 1.0


def test_closing_frees_the_tlm(model: ElasticModel) -> None:
    reader = _reader()
    with _orchestrator(model, reader):
        assert not reader.is_closed
    assert reader.is_closed
