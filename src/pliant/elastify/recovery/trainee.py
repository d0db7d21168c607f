"""One level in training: its sub-model with a LoRA, the optimizer, and where they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pliant.bundle.plan import Level
from pliant.elastify.recovery.adapted import adapt, trained_parameters
from pliant.elastify.recovery.batches import Batch
from pliant.elastify.recovery.checkpoint import TrainingState, load_state, save_state
from pliant.elastify.recovery.losses import distillation_loss, lm_loss, scored_logits
from pliant.elastify.recovery.options import RecoveryOptions

WARM_UP_SHARE = 0.05
MAX_GRADIENT_NORM = 1.0
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Trainee:
    """Trains with AdamW; the rate rises over the first steps and then falls linearly to zero.

    `step` updates are done. With the same model, level, options and batches the factors are the
    same, whether or not the training was interrupted and went on from `checkpoint`.
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
        self.step = 0
        self.losses: list[float] = []
        self._options = options
        self._checkpoint = checkpoint
        self._fingerprint = fingerprint
        self._parameters = trained_parameters(self.model)
        self._optimizer = torch.optim.AdamW(self._parameters.values(), weight_decay=0.0)
        self._resume()

    def update(self, batch: Batch, teacher_logits: torch.Tensor | None) -> None:
        """One step; without a teacher the loss is that of language modelling."""
        logits = scored_logits(self.model, batch, self._options.dtype)
        if teacher_logits is None:
            loss = lm_loss(logits, batch)
        else:
            loss = distillation_loss(logits, teacher_logits, batch)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters.values(), MAX_GRADIENT_NORM)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._options, self.step)
        self._optimizer.step()
        self.losses.append(float(loss.detach()))
        self.step += 1

    def save(self) -> None:
        """Writes the checkpoint, if there is a place for one."""
        if self._checkpoint is None or self.step == 0:
            return
        tensors = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        for name, weight in self._parameters.items():
            tensors[f"{name}.value"] = weight.detach()
            for moment in _MOMENTS:
                tensors[f"{name}.{moment}"] = self._optimizer.state[weight][moment]
        save_state(self._checkpoint, TrainingState(self.step, tensors), self._fingerprint)

    def _resume(self) -> None:
        state = self._checkpoint and load_state(self._checkpoint, self._fingerprint)
        if not state:
            return
        self.step = state.step
        self.losses = state.tensors["losses"].tolist()
        with torch.no_grad():
            for name, weight in self._parameters.items():
                weight.copy_(state.tensors[f"{name}.value"])
                moments = {m: state.tensors[f"{name}.{m}"].to(weight.device) for m in _MOMENTS}
                step = torch.tensor(float(state.step))
                self._optimizer.state[weight] = {"step": step, **moments}


def learning_rate(options: RecoveryOptions, step: int) -> float:
    """Of the update after `step` others."""
    warm_up = max(1, round(WARM_UP_SHARE * options.steps))
    rising = (step + 1) / warm_up
    falling = (options.steps - step) / max(1, options.steps - warm_up)
    return options.learning_rate * min(1.0, rising, falling)
