"""Training: both heads learn tiny tasks, and an interrupted training ends as a whole one."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pliant.bundle import Bundle
from pliant.errors import TrainingError
from pliant.tlm.labels.rows import DecisionRow, ScoreRow
from pliant.tlm.model import TinyModel
from pliant.tlm.training import loop
from pliant.tlm.training.build import Shape, fresh_network
from pliant.tlm.training.export import write_tlm
from pliant.tlm.training.network import TinyNetwork
from pliant.tlm.training.options import TrainOptions
from pliant.tlm.training.train import train_decision_head, train_score_head
from support.tiny_bundle import RATIOS, make_tiny_bundle

torch.set_num_threads(1)
SHAPE = Shape(hidden_size=32, ff=64, num_heads=1, window=48)
RATIOS_ASKED = tuple(step / 10 for step in range(1, 11))
WORDS = ("the", "a", "of", "to", "name", "is", "what", "wifi", "please", "tell", "me", "small")
SCORE_OPTIONS = TrainOptions(epochs=6, batch_size=8, learning_rate=5e-3, train_trunk=True)
DECISION_OPTIONS = TrainOptions(epochs=15, slo_pairs=16, batch_size=8, learning_rate=5e-3)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def score_rows(count: int) -> list[ScoreRow]:
    """Words of more than three letters are kept."""
    chance = random.Random(0)
    rows = []
    for _ in range(count):
        words = chance.choices(WORDS, k=10)
        spans, start = [], 0
        for word in words:
            spans.append((start, start + len(word), float(len(word) > 3)))
            start += len(word) + 1
        rows.append(ScoreRow(" ".join(words), tuple(spans)))
    return rows


def decision_rows(count: int) -> list[DecisionRow]:
    """What asks for the alarm needs the full model and a fifth of the prompt, the rest nothing."""
    chance = random.Random(1)
    rows = []
    for _ in range(count):
        is_hard = chance.random() < 0.5
        text = f"{'alarm' if is_hard else 'wifi'} {' '.join(chance.choices(WORDS[:7], k=6))}"
        right = tuple(
            tuple(int(not is_hard or (a == 1.0 and b >= 0.2)) for b in RATIOS_ASKED) for a in RATIOS
        )
        sure = tuple(tuple(0.05 + 0.9 * value for value in line) for line in right)
        rows.append(DecisionRow(text, RATIOS, RATIOS_ASKED, right, sure))
    return rows


def test_both_heads_learn_and_the_file_knows_it(bundle: Bundle, tmp_path: Path) -> None:
    network = fresh_network(bundle, SHAPE)
    steps: list[tuple[int, int, float]] = []
    score = train_score_head(
        network, score_rows(48), SCORE_OPTIONS, report=lambda *step: steps.append(step)
    )
    assert score.losses[-1] < 0.1 * score.losses[0]
    assert steps == [(i + 1, 36, loss) for i, loss in enumerate(score.losses)]
    decision = train_decision_head(network, decision_rows(48), DECISION_OPTIONS)
    assert decision.losses[-1] < 0.2 * decision.losses[0]
    write_tlm(tmp_path / "tlm.gguf", network)
    with TinyModel(tmp_path / "tlm.gguf", threads=1, model=bundle.gguf.path) as model:
        text = "tell me the name of wifi"
        tokens = model.read(text).tokens
        wifi, the = (
            [token.keep for token in tokens if token.start <= text.index(word) < token.end]
            for word in ("wifi", "the")
        )
        assert min(wifi) > 0.8 > 0.2 > max(the)
        hard, easy = (model.read(f"{word} what is the name") for word in ("alarm", "wifi"))
        assert hard.levels[-1] > 0.7 > 0.3 > easy.levels[-1]
        assert hard.prompt_ratios[1] > 0.7 > 0.3 > easy.prompt_ratios[1]
        assert model.read("alarm what is the name", tpot=0.5).levels[-1] < 0.3


def changed(network: TinyNetwork, before: dict[str, torch.Tensor]) -> set[str]:
    now = network.state_dict()
    return {name.split(".")[0] for name in before if not torch.equal(before[name], now[name])}


@pytest.mark.parametrize(
    ("train", "rows", "options", "parts"),
    [
        (train_score_head, score_rows, {}, {"score", "score_head"}),
        (
            train_score_head,
            score_rows,
            {"train_trunk": True},
            {"score", "score_head", "trunk", "token_embd", "position_embd", "embd_norm"},
        ),
        (
            train_decision_head,
            decision_rows,
            {"train_trunk": True, "soft_weight": 0.5},
            {"decision", "slo_embd", "pooler", "prompt_ratio_head", "level_head"},
        ),
    ],
)
def test_only_the_head_asked_for_changes(
    bundle: Bundle, train: Callable[..., Any], rows: Any, options: dict[str, Any], parts: set[str]
) -> None:
    network = fresh_network(bundle, SHAPE)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    train(network, rows(6), TrainOptions(epochs=1, learning_rate=1e-2, **options))
    assert changed(network, before) == parts


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    ("train", "rows"), [(train_score_head, score_rows), (train_decision_head, decision_rows)]
)
def test_an_interrupted_training_ends_as_a_whole_one(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train: Callable[..., Any],
    rows: Any,
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    options = TrainOptions(epochs=3, batch_size=4, learning_rate=1e-2, train_trunk=True)
    examples, checkpoint = rows(10), tmp_path / "deep" / "state.safetensors"

    def stop(done: int, _total: int, _loss: float) -> None:
        if done == 5:
            raise Interrupted

    whole = fresh_network(bundle, SHAPE)
    losses = train(whole, examples, options).losses
    with pytest.raises(Interrupted):
        train(fresh_network(bundle, SHAPE), examples, options, checkpoint=checkpoint, report=stop)
    resumed, steps = fresh_network(bundle, SHAPE), []
    log = train(
        resumed, examples, options, checkpoint=checkpoint, report=lambda *step: steps.append(step)
    )
    assert log.losses == losses
    assert steps[0][0] == 5
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    again = fresh_network(bundle, SHAPE)
    assert train(again, examples, options, checkpoint=checkpoint).losses == losses


def test_a_checkpoint_of_another_training_is_not_used(bundle: Bundle, tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.safetensors"
    options = TrainOptions(epochs=1, learning_rate=1e-2)
    train_score_head(fresh_network(bundle, SHAPE), score_rows(4), options, checkpoint=checkpoint)
    for other in (TrainOptions(epochs=1, learning_rate=2e-2), options):
        steps: list[int] = []
        train_score_head(
            fresh_network(bundle, SHAPE),
            score_rows(5),
            other,
            checkpoint=checkpoint,
            report=lambda done, _total, _loss, steps=steps: steps.append(done),  # type: ignore[misc]
        )
        assert steps[0] == 1
    checkpoint.write_bytes(b"damaged")
    train_score_head(fresh_network(bundle, SHAPE), score_rows(4), options, checkpoint=checkpoint)


@pytest.mark.parametrize("train", [train_score_head, train_decision_head])
def test_without_labels_there_is_nothing_to_learn(bundle: Bundle, train: Any) -> None:
    with pytest.raises(TrainingError, match="no labels"):
        train(fresh_network(bundle, SHAPE), [], TrainOptions())


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"dropout": 1.0}, {"soft_weight": 2.0}, {"learning_rate": 0.0}]
)
def test_options_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=next(iter(change))):
        TrainOptions(**change)
