"""Training recovers, repeats itself, and goes on where it was stopped."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pliant.bundle import LayerPlan, Level, Plan
from pliant.elastify.recovery import recover
from pliant.elastify.recovery.batches import collate
from pliant.elastify.recovery.data import Example, RecoveryData
from pliant.elastify.recovery.losses import distillation_loss, scored_logits
from pliant.elastify.recovery.options import RecoveryOptions
from pliant.elastify.recovery.recover import RecoveredLevel, recover_levels
from pliant.elastify.recovery.trainee import Trainee, learning_rate
from support.tiny_hf import make_model

LEVELS = (
    Level(0.4, Plan((LayerPlan(4, 2, 128), LayerPlan(2, 2, 64), LayerPlan(1, 2, 32))), 0.4),
    Level(0.8, Plan((LayerPlan(4, 2, 128), LayerPlan(3, 2, 96), LayerPlan(3, 2, 96))), 0.8),
)
OPTIONS = RecoveryOptions(rank=4, steps=12, batch_tokens=96, learning_rate=1e-2)


def make_data() -> RecoveryData:
    """Arithmetic sequences, of which one can learn to predict the next token."""
    random = np.random.default_rng(0)
    examples = []
    for _ in range(24):
        start, step, length = random.integers(6, 60), random.integers(1, 4), random.integers(8, 24)
        weights = np.ones(length, np.float32)
        weights[0] = 0
        examples.append(Example(start + step * np.arange(length), weights))
    return RecoveryData(tuple(examples[:20]), tuple(examples[20:]), "data")


DATA = make_data()


@pytest.fixture(scope="module")
def expected() -> tuple[RecoveredLevel, ...]:
    """What an uninterrupted run of both levels gives."""
    return recover_levels(make_model(), LEVELS, DATA, OPTIONS)


def equal(left: RecoveredLevel, right: RecoveredLevel) -> bool:
    same = left.training_losses == right.training_losses
    return same and all(
        np.array_equal(x, y)
        for name in left.factors
        for x, y in zip(left.factors[name], right.factors[name], strict=True)
    )


@pytest.mark.parametrize("long", [100, 300])
def test_a_few_long_examples_do_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch, long: int
) -> None:
    """All that factors are fitted on is one batch: its rows are as long as the longest."""
    monkeypatch.setattr(recover, "FIT_TOKENS", 256)
    shapes: list[tuple[int, ...]] = []

    class Recorded(recover.Sample):
        def __init__(self, examples: Sequence[Example]) -> None:
            super().__init__(examples)
            shapes.append(tuple(self.batch.tokens.shape))

    monkeypatch.setattr(recover, "Sample", Recorded)
    examples = [Example.text([7] * 8), Example.text([8] * long)] * 40
    data = RecoveryData(tuple(examples), DATA.held_out, "data")
    options = replace(OPTIONS, steps=1, max_tokens=long)
    recover_levels(make_model(max_position_embeddings=512), LEVELS[:1], data, options)
    assert all(0 < rows * length <= 4 * 256 for rows, length in shapes)


def test_language_modelling_lowers_the_held_out_loss() -> None:
    options = RecoveryOptions(
        loss="lm", rank=4, steps=40, batch_tokens=96, learning_rate=1e-2, prompt_weight=0.0
    )
    small, large = recover_levels(make_model(), LEVELS, DATA, options)
    for result in (small, large):
        assert result.helps
        assert result.recovered_loss < 0.9 * result.bare_loss
        assert len(result.training_losses) == 40
        assert np.mean(result.training_losses[-5:]) < np.mean(result.training_losses[:5])


def test_distillation_comes_closer_to_the_full_model() -> None:
    model, level = make_model(), LEVELS[1]
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    options = RecoveryOptions(rank=8, steps=40, batch_tokens=96, learning_rate=1e-2)
    (result,) = recover_levels(model, [level], DATA, options)
    assert np.mean(result.training_losses[-5:]) < 0.8 * np.mean(result.training_losses[:5])
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_a_level_learns_the_same_alone_and_beside_others(
    expected: tuple[RecoveredLevel, ...],
) -> None:
    (alone,) = recover_levels(make_model(), LEVELS[1:], DATA, OPTIONS)
    assert equal(alone, expected[1])


class Killed(Exception):
    """Stands for the end of the process between two steps."""


def kill_after(monkeypatch: pytest.MonkeyPatch, updates: int) -> None:
    update, left = Trainee.update, [updates]

    def counted(self: Trainee, *arguments: Any) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        update(self, *arguments)

    monkeypatch.setattr(Trainee, "update", counted)


@pytest.mark.parametrize("updates", [1, 7, 23])
def test_a_killed_run_ends_with_the_same_factors(
    updates: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: tuple[RecoveredLevel, ...],
) -> None:
    monkeypatch.setattr(recover, "CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_after(patched, updates)
        recover_levels(make_model(), LEVELS, DATA, OPTIONS, checkpoints=tmp_path)
    made: list[int] = []
    update = Trainee.update

    def noted(self: Trainee, *arguments: Any) -> None:
        made.append(self.step)
        update(self, *arguments)

    monkeypatch.setattr(Trainee, "update", noted)
    found = recover_levels(make_model(), LEVELS, DATA, OPTIONS, checkpoints=tmp_path)
    assert all(equal(one, other) for one, other in zip(found, expected, strict=True))
    assert len(made) == 2 * (OPTIONS.steps - updates // 2)


def test_levels_that_stand_at_different_steps_all_finish(
    tmp_path: Path, expected: tuple[RecoveredLevel, ...]
) -> None:
    """As after a kill between the writing of two checkpoints."""
    model = make_model()
    recover_levels(model, LEVELS[:1], DATA, OPTIONS, checkpoints=tmp_path)
    found = recover_levels(model, LEVELS, DATA, OPTIONS, checkpoints=tmp_path)
    assert all(equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_finished_level_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = recover_levels(make_model(), LEVELS[:1], DATA, OPTIONS, checkpoints=tmp_path)
    kill_after(monkeypatch, 0)
    (again,) = recover_levels(make_model(), LEVELS[:1], DATA, OPTIONS, checkpoints=tmp_path)
    assert equal(first, again)
    with pytest.raises(Killed):
        recover_levels(make_model(seed=1), LEVELS[:1], DATA, OPTIONS, checkpoints=tmp_path)


def test_an_update_is_a_step_of_adamw_on_the_loss() -> None:
    """The same first step as by hand, from the gradients of the loss."""
    model = make_model()
    trainee = Trainee(model, LEVELS[0], OPTIONS, None, "")
    batch = collate(DATA.training[:3])
    teacher = scored_logits(model, batch).detach()
    parameters = [w for w in trainee.model.parameters() if w.requires_grad]
    before = [weight.detach().clone() for weight in parameters]
    loss = distillation_loss(scored_logits(trainee.model, batch), teacher, batch)
    gradients = torch.autograd.grad(loss, parameters)
    norm = torch.stack([g.norm() for g in gradients]).norm()
    scale = min(1.0, 1.0 / float(norm + 1e-6))
    trainee.update(batch, teacher)
    rate = learning_rate(OPTIONS, 0)
    for weight, old, gradient in zip(parameters, before, gradients, strict=True):
        clipped = gradient * scale
        torch.testing.assert_close(
            weight.detach(), old - rate * clipped / (clipped.abs() + 1e-8), rtol=1e-3, atol=1e-6
        )


def test_gap_closed() -> None:
    result = RecoveredLevel(0.5, {}, bare_loss=3.0, recovered_loss=2.25, training_losses=())
    assert result.gap_closed(2.0) == pytest.approx(0.75)
    assert result.gap_closed(3.0) == 0.0
