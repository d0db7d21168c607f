"""Updates by AdamW that can be stopped at any step and gone on with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pliant.training.checkpoint import TrainState, load_state, save_state

CHECKPOINT_SECONDS = 60.0
WARM_UP_SHARE = 0.05
MAX_GRADIENT_NORM = 1.0
_MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamW:
    """`step` updates of `parameters` are done; `losses` has one value for each of them.

    Goes on from the file `checkpoint`, if it holds the state of the training that `fingerprint`
    tells from others: parameters are then those of that step, and so is what comes of them.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        checkpoint: Path | None,
        fingerprint: str,
        *,
        weight_decay: float = 0.0,
    ) -> None:
        self.step = 0
        self.losses: list[float] = []
        self._parameters = parameters
        self._checkpoint = checkpoint
        self._fingerprint = fingerprint
        self._optimizer = torch.optim.AdamW(parameters.values(), weight_decay=weight_decay)
        self._resume()

    def update(self, loss: Tensor, learning_rate: float) -> None:
        """One step down the gradients of `loss`, a scalar, clipped to a norm."""
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters.values(), MAX_GRADIENT_NORM)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self.losses.append(float(loss.detach()))
        self.step += 1

    def save(self) -> None:
        """Writes the checkpoint, if there is a place for one and anything was done."""
        if self._checkpoint is None or self.step == 0:
            return
        tensors = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        for name, weight in self._parameters.items():
            tensors[f"{name}.value"] = weight.detach()
            for moment in _MOMENTS:
                tensors[f"{name}.{moment}"] = self._optimizer.state[weight][moment]
        save_state(self._checkpoint, TrainState(self.step, tensors), self._fingerprint)

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


def rate_share(step: int, total: int) -> float:
    """Of the highest learning rate, for the update after `step` of `total` others: it rises over
    the first steps, then falls linearly to zero."""
    warm_up = max(1, round(WARM_UP_SHARE * total))
    return min(1.0, (step + 1) / warm_up, (total - step) / max(1, total - warm_up))
