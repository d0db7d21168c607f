"""Decision labels, against each compressed prompt scored on its own."""

import math
from collections.abc import Iterator

import pytest

from pliant.bundle import Bundle
from pliant.engine.model import ElasticModel
from pliant.engine.options import EngineOptions
from pliant.engine.questions import Question
from pliant.tlm.compress import compress_prompt, prompt_text
from pliant.tlm.labels.decisions import PROMPT_RATIOS, decision_rows
from pliant.tlm.labels.label import shortening
from pliant.tlm.model import TinyModel
from pliant.tlm.protect import STRUCTURE


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> Iterator[ElasticModel]:
    with ElasticModel(bundle, EngineOptions(slots=4, threads=1)) as opened:
        yield opened


@pytest.fixture(scope="module")
def tlm(bundle: Bundle) -> Iterator[TinyModel]:
    assert bundle.tlm_path is not None
    with TinyModel(bundle.tlm_path, threads=1) as opened:
        yield opened


def test_rows_are_those_of_single_scores(
    model: ElasticModel, tlm: TinyModel, questions: tuple[Question, ...]
) -> None:
    rows = decision_rows(model, questions[:3], shortening(model, tlm))
    for question, row in zip(questions, rows, strict=False):
        assert row.text == prompt_text(question.messages)
        assert row.levels == (0.3, 0.5, 1.0)
        assert row.prompt_ratios == PROMPT_RATIOS
        for i, level in enumerate(row.levels):
            for j, ratio in enumerate(row.prompt_ratios):
                short = compress_prompt(
                    question.messages, ratio, model=model, protect=STRUCTURE, scorer=tlm
                ).prompt
                scores = model.score(short, question.choices, level=level)
                shares = [math.exp(score) for score in scores]
                share = shares[question.answer_index] / sum(shares)
                assert row.probability[i][j] == pytest.approx(share, abs=2e-3)
                others = [s for k, s in enumerate(scores) if k != question.answer_index]
                lead = scores[question.answer_index] - max(others)
                if abs(lead) > 4e-3:
                    assert row.right[i][j] == (lead > 0)


def test_a_model_without_template_is_asked_in_text(model: ElasticModel, tlm: TinyModel) -> None:
    # The template of these models refuses this role.
    odd = Question("q", ({"role": "tool", "content": "Is the wifi on?"},), ("yes", "no"), 0)
    [row] = decision_rows(model, [odd], shortening(model, tlm), (0.5, 1.0))
    assert row.text == "Is the wifi on?\nAnswer:"
    scores = model.score(row.text, (" yes", " no"))
    share = 1 / (1 + math.exp(scores[1] - scores[0]))
    assert row.probability[-1][-1] == pytest.approx(share, abs=2e-3)
