"""Labels by leaving words out, against a plain loop over prompts written by hand."""

import math
from collections.abc import Iterator

import numpy as np
import pytest

from pliant.bundle import Bundle
from pliant.engine.model import ElasticModel
from pliant.engine.options import EngineOptions
from pliant.engine.questions import Question
from pliant.tlm.labels.saliency import PromptWords, keep_values, saliency_rows

CONTENT = "Turn on the wifi, please.\nRequest: what is on?"
# The last line is the question, and stays.
WITHOUT = {
    "Turn": "on the wifi, please.\nRequest: what is on?",
    "on": "Turn the wifi, please.\nRequest: what is on?",
    "the": "Turn on wifi, please.\nRequest: what is on?",
    "wifi,": "Turn on the please.\nRequest: what is on?",
    "please.": "Turn on the wifi,\nRequest: what is on?",
}
QUESTION = Question("q", ({"role": "user", "content": CONTENT},), ("wifi", "the bluetooth"), 0)


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Iterator[ElasticModel]:
    with ElasticModel(bundle, EngineOptions(slots=4, threads=1)) as opened:
        yield opened


def log_share(model: ElasticModel, content: str) -> float:
    scores = model.score([{"role": "user", "content": content}], QUESTION.choices)
    return scores[0] - math.log(sum(map(math.exp, scores)))


def test_effects_are_those_of_a_plain_loop(model: ElasticModel) -> None:
    [row] = saliency_rows(model, [QUESTION])
    assert row.text == CONTENT
    assert [row.text[start:end] for start, end, _ in row.spans] == list(WITHOUT)
    whole = log_share(model, CONTENT)
    effects = [whole - log_share(model, short) for short in WITHOUT.values()]
    expected = keep_values(np.array(effects))
    assert np.allclose([keep for *_, keep in row.spans], expected, atol=0.02)


def test_questions_together_and_alone(model: ElasticModel, questions: tuple[Question, ...]) -> None:
    together = saliency_rows(model, questions[:4])
    for question, row in zip(questions, together, strict=False):
        [alone] = saliency_rows(model, [question])
        assert alone.text == row.text
        assert [span[:2] for span in alone.spans] == [span[:2] for span in row.spans]
        assert np.allclose([s[2] for s in alone.spans], [s[2] for s in row.spans], atol=0.05)


def test_long_prompts_leave_out_words_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pliant.tlm.labels.saliency.MAX_GROUPS", 2)
    words = PromptWords([{"role": "user", "content": CONTENT}], ())
    assert [len(group) for group in words.groups] == [2, 3]
    assert words.without(words.groups[0]) == (
        {"role": "user", "content": "the wifi, please.\nRequest: what is on?"},
    )
    row = words.row([0.25, 1.0])
    assert [keep for *_, keep in row.spans] == [0.25, 0.25, 1.0, 1.0, 1.0]


def test_keep_values() -> None:
    assert keep_values(np.array([0.0, -3.0, 1.0, 3.0])) == [0.0, 0.0, 1 / 3, 0.6]
    assert keep_values(np.array([-1.0, 0.0])) == [0.0, 0.0]
    assert keep_values(np.array([])) == []
