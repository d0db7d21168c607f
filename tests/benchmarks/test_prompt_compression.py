"""The prompt compression benchmark: its baselines against plain computations, and its claims."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pliant.engine.model import ElasticModel, load
from pliant.tlm.scores import TokenScore

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _report import Report
from _requests import evaluation_scenes
from _scorers import RandomWords, Remembered, SelfInformation, Truncation
from prompt_compression import SCORE_HEAD, claim_margins, claim_speed, measure

TEXT = "Apps:\nUber\nBBC news\nRequest: open the 学 map"


@pytest.fixture(scope="module")
def pocket() -> Iterator[ElasticModel]:
    with load("pocket") as model:
        yield model


def plain_losses(model: ElasticModel, tokens: list[int]) -> list[float]:
    """-log p of each token but the first, one pass per token."""
    losses = []
    for count in range(1, len(tokens)):
        last = model.logits(tokens[:count])[-1].astype(np.float64)
        losses.append(float(np.logaddexp.reduce(last) - last[tokens[count]]))
    return losses


def test_self_information_is_the_models_surprise(pocket: ElasticModel) -> None:
    tokens = pocket.tokenizer.encode(TEXT)
    [found] = SelfInformation(pocket).scores([TEXT])
    assert math.isnan(found[0].keep)
    expected = plain_losses(pocket, tokens)
    assert [score.keep for score in found[1:]] == pytest.approx(expected, abs=1e-2)
    assert (found[0].start, found[-1].end) == (0, len(TEXT))


def test_long_texts_are_read_in_windows(pocket: ElasticModel) -> None:
    text = "the quick brown fox jumps over the lazy dog. " * 120
    tokens = pocket.tokenizer.encode(text)
    window = pocket.engine.context_length
    assert len(tokens) > 1.5 * window
    [found] = SelfInformation(pocket).scores([text])
    assert len(found) == len(tokens)
    assert all(math.isfinite(score.keep) for score in found[1:])
    [start] = SelfInformation(pocket).scores([text[: found[window - 1].end]])
    assert [s.keep for s in found[1:window]] == pytest.approx(
        [s.keep for s in start[1:window]], abs=1e-2
    )


@pytest.mark.parametrize("text", ["", "a", "\ud800", " "])
def test_scorers_take_any_text(pocket: ElasticModel, text: str) -> None:
    for scorer in (SelfInformation(pocket), RandomWords(0), Truncation("both")):
        [found] = scorer.scores([text])
        assert all(0 <= score.start <= score.end <= len(text) for score in found)


def test_truncations_rank_by_place() -> None:
    def best(keeps: str) -> list[str]:
        [scores] = Truncation(keeps).scores(["a b c d e"])
        ranked = sorted(scores, key=lambda score: -score.keep)
        return ["a b c d e"[score.start : score.end] for score in ranked]

    assert best("head") == ["a", "b", "c", "d", "e"]
    assert best("tail") == ["e", "d", "c", "b", "a"]
    assert best("both")[-1] == "c"


def test_chance_is_the_same_each_time_and_a_scorer_is_asked_once() -> None:
    first, again = RandomWords(0).scores([TEXT, TEXT])
    assert first == again != RandomWords(1).scores([TEXT])[0]
    asked = []

    class Noting:
        def scores(self, texts: list[str]) -> list[list[TokenScore]]:
            asked.append(texts)
            return [[] for _ in texts]

    remembered = Remembered(Noting())
    assert remembered.scores([TEXT, "b"]) == remembered.scores([TEXT, "b"]) == [[], []]
    assert asked == [[TEXT], ["b"]]


def test_measures_accuracy_and_the_ratio_reached(pocket: ElasticModel) -> None:
    report = Report("prompt_compression")
    tasks = {"app": evaluation_scenes("app", 2, 0)}
    measure(pocket, tasks, {"random": RandomWords(0)}, (0.5, 1.0), report)
    half, full = report.results
    assert 0.3 < half["reached"] <= 0.5
    assert full["reached"] == 1
    assert {half["app"], full["app"]} <= {0.0, 50.0, 100.0}
    claim_speed(pocket, tasks["app"], 0, report)
    assert isinstance(report.claims[0].measured, float)


def test_claims_are_against_the_best_of_the_others() -> None:
    report = Report("prompt_compression")
    for method, accuracy in (("random", 40.0), ("truncation", 55.0), (SCORE_HEAD, 60.0)):
        for ratio in (0.3, 0.5, 0.7):
            report.row(method=method, asked=ratio, mean=accuracy)
    claim_margins(report)
    assert [(claim.measured, claim.met) for claim in report.claims] == [(5.0, True)] * 3
    report = Report("prompt_compression")
    report.row(method="random", asked=0.5, mean=40.0)
    claim_margins(report)
    assert not any(claim.met for claim in report.claims)
