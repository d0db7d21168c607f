"""Evaluation, against every question asked on its own."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pliant.bundle import Bundle
from pliant.errors import BundleError
from pliant.tlm.evaluate import choose, evaluate, feasible_pairs, score_slo
from pliant.tlm.labels.rows import DecisionRow
from pliant.tlm.model import TinyModel
from support.tiny_bundle import make_tiny_bundle
from support.tiny_tasks import add_tiny_tlm, write_tasks

ROW = DecisionRow(
    text="Turn on the wifi.",
    levels=(0.3, 0.5, 1.0),
    prompt_ratios=(0.1, 0.5, 1.0),
    right=((0, 0, 1), (0, 1, 1), (1, 0, 1)),
    probability=((0.1,) * 3,) * 3,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return add_tiny_tlm(make_tiny_bundle(tmp_path_factory.mktemp("evaluate") / "bundle"))


@pytest.fixture(scope="module")
def tlm(bundle: Bundle) -> Iterator[TinyModel]:
    assert bundle.tlm_path is not None
    levels = tuple(level.ratio for level in bundle.levels)
    assert levels == ROW.levels
    with TinyModel(bundle.tlm_path, threads=1) as opened:
        yield opened


def test_feasible_pairs() -> None:
    assert feasible_pairs(ROW, 1.0, 1.0).all()
    assert feasible_pairs(ROW, 0.5, 0.5).tolist() == [[True] * 3, [True] * 3, [False] * 3]
    assert feasible_pairs(ROW, 0.25, 1.0).tolist() == [
        [True, True, False],
        [True, True, False],
        [True, False, False],
    ]
    assert feasible_pairs(ROW, 0.01, 0.01).sum() == 1


def test_the_decision_is_the_likeliest_feasible_pair(tlm: TinyModel) -> None:
    ratios = {ratio: index for index, ratio in enumerate(tlm.prompt_ratios)}
    row = DecisionRow(ROW.text, ROW.levels, tlm.prompt_ratios, ((0,) * 10,) * 3, ((0.0,) * 10,) * 3)
    feasible = feasible_pairs(row, 0.25, 0.6)
    reading = tlm.read(ROW.text, 0.25, 0.6)
    pairs = [
        (reading.levels[i] * reading.prompt_ratios[j], (i, j))
        for i, level in enumerate(row.levels)
        for ratio, j in ratios.items()
        if level * ratio <= 0.25 + 1e-6 and level <= 0.6
    ]
    assert choose(tlm, ROW.text, feasible, 0.25, 0.6) == max(pairs)[1]


def test_scores_of_one_slo(tlm: TinyModel) -> None:
    wide = [
        DecisionRow(ROW.text, ROW.levels, tlm.prompt_ratios, right, ((0.5,) * 10,) * 3)
        for right in (
            ((0,) * 10, (0,) * 10, (0,) * 9 + (1,)),
            ((0,) * 10, (0,) * 10, (1,) + (0,) * 9),
        )
    ]
    found = score_slo(tlm, wide, 1.0, 1.0)
    assert found.rule == 0.5
    assert found.oracle == 1.0
    assert found.random == pytest.approx(1 / 30)
    assert found.chosen in (0.0, 0.5)
    # Level 1.0 is not allowed, and nothing below is right.
    assert score_slo(tlm, wide, 1.0, 0.5).oracle == 0.0
    # The longest prompt first: at level 0.3, not half of it at level 0.5.
    long = DecisionRow(
        ROW.text, ROW.levels, tlm.prompt_ratios,
        ((0,) * 9 + (1,), (0,) * 10, (0,) * 10), ((0.5,) * 10,) * 3,
    )  # fmt: skip
    assert score_slo(tlm, [long], 0.3, 1.0).rule == 1.0


def test_accuracy_is_that_of_plain_answers(bundle: Bundle, tmp_path: Path) -> None:
    from pliant.engine.model import ElasticModel
    from pliant.engine.questions import read_questions

    tasks = write_tasks(tmp_path / "tasks.jsonl", count=4)
    found = evaluate(bundle.path, tasks, slos=[(1.0, 1.0), (0.2, 0.5)])
    assert (found.questions, found.skipped) == (4, 0)
    assert np.shape(found.accuracy) == (3, 10)
    with ElasticModel(bundle) as model:
        for index, level in enumerate(found.levels):
            picked = [
                int(np.argmax(model.score(list(q.messages), q.choices, level=level)))
                == q.answer_index
                for q in read_questions(tasks)
            ]
            assert found.accuracy[index][-1] == np.mean(picked)
    for slo in found.slos:
        assert slo.chosen <= slo.oracle
        assert slo.rule <= slo.oracle
        assert slo.random <= slo.oracle


def test_a_bundle_without_tlm(tmp_path: Path) -> None:
    bare = make_tiny_bundle(tmp_path / "bare")
    with pytest.raises(BundleError, match="has no TLM; `pliant tlm train` makes one"):
        evaluate(bare.path, write_tasks(tmp_path / "tasks.jsonl"))
