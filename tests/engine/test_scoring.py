"""Scores of given continuations, against the model's own logits; what they leave to others."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pliant
from pliant.engine.engine import MAX_BATCH
from pliant.engine.options import EngineOptions
from pliant.engine.scoring import log_probabilities
from pliant.engine.slots import SlotPool
from pliant.engine.span import Span
from pliant.errors import BusyError, ContextOverflowError, RequestError
from support.tiny_gguf import make_tiny_gguf

PROMPT = "Turn on the wifi and "
CONTEXT = 256
CHOICES = ["the wifi", "x", " bluetooth, please", "y", "the wifi", "zz 42"]


@pytest.fixture(scope="module")
def model(tiny_path: Path) -> Iterator[pliant.ElasticModel]:
    with pliant.load(tiny_path, EngineOptions(slots=3, threads=1)) as model:
        yield model


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def test_scores_are_mean_log_probabilities(model: pliant.ElasticModel) -> None:
    scores = model.score(PROMPT, CHOICES)
    tokens = model.encode_prompt(PROMPT)
    for choice, score in zip(CHOICES, scores, strict=True):
        continuation = model.tokenizer.encode_continuation(PROMPT, choice)
        rows = log_softmax(model.logits([*tokens, *continuation]))
        values = [rows[len(tokens) - 1 + index, token] for index, token in enumerate(continuation)]
        assert score == pytest.approx(float(np.mean(values)), abs=1e-4)
    assert model.score(PROMPT, ["x", "y"]) == pytest.approx([scores[1], scores[3]], abs=1e-5)


def test_a_continuation_longer_than_a_batch(tmp_path: Path) -> None:
    path = make_tiny_gguf(tmp_path / "m.gguf", context=2 * MAX_BATCH)
    tokens = np.random.default_rng(0).integers(6, 300, MAX_BATCH + 40).tolist()
    with pliant.load(path, EngineOptions(slots=2, threads=1)) as model:
        rows = log_softmax(model.logits(tokens))
        expected = rows[np.arange(len(tokens) - 1), tokens[1:]]
        with model.lease_slot() as slot:
            span = Span(slot, tokens[:-1], 0, "all")
            found = log_probabilities(model.engine, model.bundle.levels[-1], [span], tokens[1:])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_one_slot_is_enough(tiny_path: Path, model: pliant.ElasticModel) -> None:
    with pliant.load(tiny_path, EngineOptions(slots=1, threads=1)) as narrow:
        assert narrow.score(PROMPT, CHOICES) == pytest.approx(
            model.score(PROMPT, CHOICES), abs=1e-5
        )


def test_another_request_is_answered_while_choices_are_scored(
    model: pliant.ElasticModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = model.generate(PROMPT, max_tokens=8).tokens
    scores = model.score(PROMPT, CHOICES)
    scoring, answered = threading.Event(), threading.Event()
    forward = model.engine.forward

    def pausing(*arguments: Any) -> Any:
        rows = forward(*arguments)
        if threading.current_thread() is scorer:
            scoring.set()
            assert answered.wait(30)
        return rows

    monkeypatch.setattr(model.engine, "forward", pausing)
    found: list[list[float]] = []
    scorer = threading.Thread(target=lambda: found.append(model.score(PROMPT, CHOICES)))
    scorer.start()
    assert scoring.wait(30)
    try:
        assert model.generate(PROMPT, max_tokens=8).tokens == alone
    finally:
        answered.set()
        scorer.join()
    assert found == [pytest.approx(scores, abs=1e-5)]


def test_who_asks_for_several_slots_leaves_one() -> None:
    pool = SlotPool(4)
    with pool.lease(8) as most, pool.lease(8) as last:
        assert (most, last) == ([0, 1, 2], [3])
        with pytest.raises(BusyError), pool.lease():
            pass
    with pool.lease(2) as two:
        assert two == [0, 1]
    with SlotPool(1).lease(8) as only:
        assert only == [0]


def test_what_does_not_fit_the_context_is_named(model: pliant.ElasticModel) -> None:
    with pytest.raises(ContextOverflowError, match="the prompt has 256 tokens and needs room"):
        model.score([7] * CONTEXT, ["a"])
    with pytest.raises(
        ContextOverflowError, match="the choice 'ab ab ab' has [0-9] tokens after the prompt's 255"
    ) as caught:
        model.score([7] * (CONTEXT - 1), ["a", "ab ab ab"])
    choice = model.tokenizer.encode("ab ab ab", add_bos=False)
    assert caught.value.needed_tokens == CONTEXT - 1 + len(choice)
    assert caught.value.available_tokens == CONTEXT
    assert len(model.score([7] * (CONTEXT - 1), ["a"])) == 1


@pytest.mark.parametrize("choices", [[], "a", [""], ["a", ""], [3]])
def test_bad_choices_are_refused(model: pliant.ElasticModel, choices: list[str]) -> None:
    with pytest.raises(RequestError, match="choice"):
        model.score(PROMPT, choices)
