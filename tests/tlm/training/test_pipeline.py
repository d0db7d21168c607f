"""From label files to a bundle with a TLM."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pliant.errors import LabelError
from pliant.tlm.labels.label import label_tasks
from pliant.tlm.labels.rows import PAIR_FILE, ScoreRow, write_rows
from pliant.tlm.model import TinyModel
from pliant.tlm.training.build import Shape
from pliant.tlm.training.network import TinyNetwork
from pliant.tlm.training.options import TrainOptions
from pliant.tlm.training.pipeline import Recipe, train_tlm
from support.tiny_bundle import make_tiny_bundle
from support.tiny_tasks import write_tasks

SHAPE = Shape(hidden_size=32, ff=32, num_heads=1)
WORDS = ("wifi", "station", "please", "the", "on", "meet", "me", "at")


def word_rows(kept: str) -> list[ScoreRow]:
    """One word is worth keeping, wherever it stands."""
    rows = []
    for turn in range(len(WORDS)):
        words = WORDS[turn:] + WORDS[:turn]
        text, spans = "", []
        for word in words:
            spans.append((len(text), len(text) + len(word), float(word == kept)))
            text += word + " "
        rows.append(ScoreRow(text, tuple(spans)))
    return rows


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_labels_become_a_tlm_in_the_bundle(tmp_path: Path) -> None:
    folder = make_tiny_bundle(tmp_path / "bundle").path
    labels = tmp_path / "labels"
    labels.mkdir()
    write_rows(labels / PAIR_FILE, word_rows("station"))
    recipe = Recipe(
        shape=SHAPE,
        score=TrainOptions(epochs=60, learning_rate=1e-2, train_trunk=True, dropout=0.0),
        decision=TrainOptions(epochs=1, learning_rate=1e-3),
    )
    steps: list[tuple[str, int, int]] = []

    def report(what: str, done: int, total: int, loss: float) -> None:
        steps.append((what, done, total))

    bundle = train_tlm(folder, labels, recipe, report=report)
    assert steps == [("score head", step, 60) for step in range(1, 61)]
    assert bundle.tlm_path is not None
    with TinyModel(bundle.tlm_path, threads=1) as tlm:
        [scores] = tlm.scores(["meet me at the station please "])
    station = [score.keep for score in scores if score.start < 22 and score.end > 15]
    others = [score.keep for score in scores if score.start >= 22 or score.end <= 15]
    assert np.mean(station) > np.mean(others) + 0.3

    before = bundle.tlm_path.read_bytes()
    tasks = write_tasks(tmp_path / "tasks.jsonl", count=3)
    label_tasks(folder, tasks, labels, "decision")
    again = train_tlm(folder, labels, recipe, score_only=True)
    assert again.tlm_path is not None
    assert again.tlm_path.read_bytes() == before
    steps.clear()
    both = train_tlm(folder, labels, recipe, report=report)
    # The score head is the checkpoint's.
    assert steps == [("decision head", 1, 1)]
    assert both.tlm_path is not None
    assert both.tlm_path.read_bytes() != before


def test_prepared_weights_are_started_from(tmp_path: Path) -> None:
    folder = make_tiny_bundle(tmp_path / "bundle").path
    write_rows(tmp_path / PAIR_FILE, word_rows("on"))
    seen: list[TinyNetwork] = []
    train_tlm(folder, tmp_path, Recipe(shape=SHAPE), prepare=seen.append)
    assert seen[0].config.levels == (0.3, 0.5, 1.0)


def test_no_labels(tmp_path: Path) -> None:
    folder = make_tiny_bundle(tmp_path / "bundle").path
    with pytest.raises(LabelError, match="has no score labels: `pliant tlm labels` makes them"):
        train_tlm(folder, tmp_path / "nowhere")
