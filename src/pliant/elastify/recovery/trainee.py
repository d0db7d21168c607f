"""One level in training: its sub-model with a LoRA, the optimizer, and where they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pliant.bundle.plan import Level
from pliant.elastify.recovery.adapted import adapt, trained_parameters
from pliant.elastify.recovery.batches import Batch
from pliant.elastify.recovery.losses import distillation_loss, lm_loss, scored_logits
from pliant.elastify.recovery.options import RecoveryOptions
from pliant.training.adamw import AdamW, rate_share


class Trainee:
    """Trains with AdamW; the rate rises over the first steps and then falls linearly to zero.

    With the same model, level, options and batches the factors are the same, whether or not the
    training was interrupted and went on from `checkpoint`.
    """

    def __init__(
        self,
        model: Any,
        level: Level,
        options: RecoveryOptions,
        checkpoint: Path | None,
        fingerprint: str,
    ) -> None:
        self.level = level
        self.model = adapt(
            model, level.plan, rank=options.rank, alpha=options.alpha, seed=options.seed
        )
        self._options = options
        self._optimizer = AdamW(trained_parameters(self.model), checkpoint, fingerprint)

    @property
    def step(self) -> int:
        """How many updates are done."""
        return self._optimizer.step

    @property
    def losses(self) -> list[float]:
        """One per update, in the training's own measure."""
        return self._optimizer.losses

    def update(self, batch: Batch, teacher_logits: torch.Tensor | None) -> None:
        """One step; without a teacher the loss is that of language modelling."""
        logits = scored_logits(self.model, batch, self._options.dtype)
        if teacher_logits is None:
            loss = lm_loss(logits, batch)
        else:
            loss = distillation_loss(logits, teacher_logits, batch)
        self._optimizer.update(loss, learning_rate(self._options, self.step))

    def save(self) -> None:
        """Writes the checkpoint, if there is a place for one."""
        self._optimizer.save()


def learning_rate(options: RecoveryOptions, step: int) -> float:
    """Of the update after `step` others."""
    return options.learning_rate * rate_share(step, options.steps)
