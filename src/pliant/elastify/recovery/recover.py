"""Trains a LoRA for every level below the full model, on the sub-model as it will run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pliant.bundle.plan import Level
from pliant.elastify.examples import Example
from pliant.elastify.recovery.adapted import Factors, factors_of
from pliant.elastify.recovery.batches import Batch, batch_schedule, batches_of, collate
from pliant.elastify.recovery.data import RecoveryData
from pliant.elastify.recovery.fingerprint import training_fingerprint, weights_sha256
from pliant.elastify.recovery.fitting import FIT_TOKENS, Sample, full_outputs
from pliant.elastify.recovery.losses import mean_lm_loss, scored_logits
from pliant.elastify.recovery.options import RecoveryOptions
from pliant.elastify.recovery.trainee import Trainee
from pliant.elastify.submodel import slice_model
from pliant.progress import Track, untracked
from pliant.training.adamw import CHECKPOINT_SECONDS

_CHECKED_BATCHES = 2  # that fitted factors are tried on
_MOST_PADDED = 4  # times the tokens, in one batch


@dataclass(frozen=True, eq=False)
class RecoveredLevel:
    """What was learned for one level.

    Losses are weighted means of -log p(next token) on the held-out examples, of the sub-model
    alone and with its adapter; `training_losses` has one value per step, in the training's own
    measure.
    """

    ratio: float
    factors: Factors
    bare_loss: float
    recovered_loss: float
    training_losses: tuple[float, ...]

    @property
    def helps(self) -> bool:
        """Whether the adapter lowers the loss on data it was not trained on."""
        return self.recovered_loss < self.bare_loss

    def gap_closed(self, full_loss: float) -> float:
        """Share of the loss that the level has over the full model which the adapter takes away.

        0 where there is no such gap.
        """
        gap = self.bare_loss - full_loss
        return (self.bare_loss - self.recovered_loss) / gap if gap > 0 else 0.0


def recover_levels(
    model: Any,
    levels: Sequence[Level],
    data: RecoveryData,
    options: RecoveryOptions,
    *,
    checkpoints: Path | None = None,
    track: Track = untracked,
) -> tuple[RecoveredLevel, ...]:
    """Trains `levels` (none of them the full model) side by side, batch by batch.

    `model` is the reordered transformers model: it is the teacher, and its weights are those of
    every sub-model, so there is one set in memory. The teacher runs once per batch for all
    levels. With `checkpoints`, a folder, a run that was cut short goes on where it was and ends
    with the same factors.
    """
    weights, trainees = weights_sha256(model), []
    for level in levels:
        fingerprint = training_fingerprint(weights, level.plan, options, data.sha256)
        checkpoint = checkpoints and checkpoints / f"level-{level.ratio:g}.safetensors"
        trainees.append(Trainee(model, level, options, checkpoint, fingerprint))
    if options.fitted:
        _fit(model, [t for t in trainees if t.step == 0], data, options, track)
    _train(model, trainees, data, options, track)
    measured = track(trainees, "held-out loss", len(trainees))
    return tuple(_recovered(model, trainee, data, options) for trainee in measured)


def _fit(
    model: Any,
    trainees: Sequence[Trainee],
    data: RecoveryData,
    options: RecoveryOptions,
    track: Track,
) -> None:
    if not trainees:
        return
    examples, others = _drawn(data.training, FIT_TOKENS, options.seed)
    checked, _ = _drawn(others, _CHECKED_BATCHES * options.batch_tokens, options.seed)
    if not examples or not checked:
        return
    checks = [
        (batch, _teacher_logits(model, batch, options))
        for batch in batches_of(checked, options.batch_tokens)
    ]
    sample = Sample(examples)
    full = full_outputs(model, sample, options.dtype)
    for trainee in track(trainees, "fitting", len(trainees)):
        trainee.fit(full, sample, checks)


def _drawn(
    examples: Sequence[Example], num_tokens: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """Random ones of about `num_tokens` tokens, and the rest.

    Fewer where some are so long that, as rows of one batch, they would be mostly padding.
    """
    order = np.random.default_rng(seed).permutation(len(examples)).tolist()
    lengths = np.array([len(examples[index].tokens) for index in order], np.int64)
    padded = np.arange(1, len(order) + 1) * np.maximum.accumulate(lengths)
    fits = (np.cumsum(lengths) <= num_tokens) & (padded <= _MOST_PADDED * num_tokens)
    count = int(fits.sum())
    drawn = [examples[index] for index in order]
    return drawn[:count], drawn[count:]


def _teacher_logits(model: Any, batch: Batch, options: RecoveryOptions) -> torch.Tensor | None:
    if options.loss != "distill":
        return None
    with torch.no_grad():
        return scored_logits(model, batch, options.dtype)


def _train(
    model: Any,
    trainees: Sequence[Trainee],
    data: RecoveryData,
    options: RecoveryOptions,
    track: Track,
) -> None:
    lengths = [len(example.tokens) for example in data.training]
    schedule = batch_schedule(lengths, options.batch_tokens, options.seed, options.steps)
    first = min((trainee.step for trainee in trainees), default=options.steps)
    saved = time.monotonic()
    for step in track(range(first, options.steps), "recovery", options.steps - first):
        batch = collate([data.training[index] for index in schedule[step]])
        teacher_logits = _teacher_logits(model, batch, options)
        for trainee in trainees:
            if trainee.step == step:
                trainee.update(batch, teacher_logits)
        if step + 1 == options.steps or time.monotonic() - saved >= CHECKPOINT_SECONDS:
            for trainee in trainees:
                trainee.save()
            saved = time.monotonic()


def _recovered(
    model: Any, trainee: Trainee, data: RecoveryData, options: RecoveryOptions
) -> RecoveredLevel:
    held_out = batches_of(data.held_out, options.batch_tokens)
    return RecoveredLevel(
        ratio=trainee.level.ratio,
        factors=factors_of(trainee.model),
        bare_loss=mean_lm_loss(slice_model(model, trainee.level.plan), held_out),
        recovered_loss=mean_lm_loss(trainee.model, held_out),
        training_losses=tuple(trainee.losses),
    )
