"""One level in training: its sub-model with a LoRA, the optimizer, and where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pliant.bundle.plan import Level
from pliant.elastify.recovery.adapted import adapt, trained_parameters
from pliant.elastify.recovery.batches import Batch
from pliant.elastify.recovery.fitting import Outputs, Sample, fit_factors
from pliant.elastify.recovery.losses import distillation_loss, lm_loss, scored_logits
from pliant.elastify.recovery.options import RecoveryOptions
from pliant.training.adamw import AdamW, rate_share

Check = tuple[Batch, torch.Tensor | None]
"""A batch with the teacher's logits."""


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
        self._parameters = trained_parameters(self.model)
        self._optimizer = AdamW(self._parameters, checkpoint, fingerprint)

    @property
    def step(self) -> int:
        """How many updates are done."""
        return self._optimizer.step

    @property
    def losses(self) -> list[float]:
        """One per update, in the training's own measure."""
        return self._optimizer.losses

    def loss(self, batch: Batch, teacher_logits: torch.Tensor | None) -> torch.Tensor:
        """Without a teacher that of language modelling."""
        logits = scored_logits(self.model, batch, self._options.dtype)
        if teacher_logits is None:
            return lm_loss(logits, batch)
        return distillation_loss(logits, teacher_logits, batch)

    @torch.no_grad()
    def fit(self, full: Outputs, sample: Sample, checks: Sequence[Check]) -> None:
        """Begin at factors fitted on `sample`, if that lowers the loss on `checks`."""
        begun = {name: weight.clone() for name, weight in self._parameters.items()}
        bare = sum(float(self.loss(*check)) for check in checks)
        fit_factors(self.model, full, sample, self._options)
        if not sum(float(self.loss(*check)) for check in checks) < bare:
            for name, weight in self._parameters.items():
                weight.copy_(begun[name])

    def update(self, batch: Batch, teacher_logits: torch.Tensor | None) -> None:
        """One step."""
        loss = self.loss(batch, teacher_logits)
        self._optimizer.update(loss, learning_rate(self._options, self.step))

    def save(self) -> None:
        """Writes the checkpoint, if there is a place for one."""
        self._optimizer.save()


def learning_rate(options: RecoveryOptions, step: int) -> float:
    """Of the update after `step` others."""
    return options.learning_rate * rate_share(step, options.steps)
