"""The training loop of both heads: AdamW, seeded, and resumable at any step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pliant.tlm.training.checkpoint import TrainState, load_state, save_state
from pliant.tlm.training.options import TrainOptions

CHECKPOINT_SECONDS = 60.0
WARM_UP_SHARE = 0.05
MAX_GRADIENT_NORM = 1.0
SORTED_BATCHES = 50
# More than the epochs and steps of a training: seeds that differ never share a stream.
_STRIDE = 1 << 40
_MOMENTS = ("exp_avg", "exp_avg_sq")

# Of the examples with these numbers; the generator is the step's own.
StepLoss = Callable[[Sequence[int], torch.Generator], Tensor]
# Called after each step: how many are done, of how many, and the step's loss.
Report = Callable[[int, int, float], None]


class TrainLoop:
    """Updates `parameters` so that `step_loss` falls; what else a network has stays as it is.

    With the same parameters, options and examples the result is the same, whether or not the
    training was interrupted and went on from `checkpoint`.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        options: TrainOptions,
        checkpoint: Path | None,
        owner: str,
    ) -> None:
        self._parameters = parameters
        self._options = options
        self._checkpoint = checkpoint
        self._owner = owner
        self._step = 0
        self.losses: list[float] = []
        self._optimizer = torch.optim.AdamW(
            parameters.values(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self._resume()

    def run(self, lengths: Sequence[int], step_loss: StepLoss, report: Report | None) -> None:
        """All epochs, each over the examples, of these lengths, in an order of its own."""
        size = self._options.batch_size
        per_epoch = -(-len(lengths) // size)
        total = self._options.epochs * per_epoch
        saved = time.monotonic()
        order: list[int] = []
        while self._step < total:
            epoch, position = divmod(self._step, per_epoch)
            if position == 0 or not order:
                order = mixed_order(lengths, size, self._generator(epoch))
            chosen = order[position * size : (position + 1) * size]
            loss = step_loss(chosen, self._generator(self._options.epochs + self._step))
            self._update(loss, total)
            if report is not None:
                report(self._step, total, self.losses[-1])
            if self._step == total or time.monotonic() - saved >= CHECKPOINT_SECONDS:
                self._save()
                saved = time.monotonic()

    def _generator(self, stream: int) -> torch.Generator:
        """Independent of what was drawn before, so that a resumed training draws the same."""
        return torch.Generator().manual_seed((self._options.seed * _STRIDE + stream) % (1 << 63))

    def _update(self, loss: Tensor, total: int) -> None:
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters.values(), MAX_GRADIENT_NORM)
        for group in self._optimizer.param_groups:
            group["lr"] = self._options.learning_rate * _rate(self._step, total)
        self._optimizer.step()
        self.losses.append(float(loss.detach()))
        self._step += 1

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        tensors = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        for name, weight in self._parameters.items():
            tensors[f"{name}.value"] = weight.detach()
            for moment in _MOMENTS:
                tensors[f"{name}.{moment}"] = self._optimizer.state[weight][moment]
        save_state(self._checkpoint, TrainState(self._step, tensors), self._owner)

    def _resume(self) -> None:
        state = self._checkpoint and load_state(self._checkpoint, self._owner)
        if not state:
            return
        self._step = state.step
        self.losses = state.tensors["losses"].tolist()
        with torch.no_grad():
            for name, weight in self._parameters.items():
                weight.copy_(state.tensors[f"{name}.value"])
                moments = {moment: state.tensors[f"{name}.{moment}"] for moment in _MOMENTS}
                self._optimizer.state[weight] = {"step": torch.tensor(float(state.step)), **moments}


def mixed_order(lengths: Sequence[int], size: int, generator: torch.Generator) -> list[int]:
    """Random, but that batches of `size` hold examples of like length, which need little padding:
    some batches' worth at a time is sorted, and the batches are mixed again."""
    shuffled = torch.randperm(len(lengths), generator=generator).tolist()
    batches = []
    for first in range(0, len(shuffled), size * SORTED_BATCHES):
        part = sorted(shuffled[first : first + size * SORTED_BATCHES], key=lengths.__getitem__)
        batches += [part[at : at + size] for at in range(0, len(part), size)]
    # The last one may be smaller, and steps count on it to come last.
    mixed = torch.randperm(len(batches) - 1, generator=generator).tolist() if batches else []
    return [index for batch in (*mixed, len(batches) - 1) for index in batches[batch]]


def _rate(step: int, total: int) -> float:
    """Rises over the first steps, then falls linearly to zero."""
    warm_up = max(1, round(WARM_UP_SHARE * total))
    return min(1.0, (step + 1) / warm_up, (total - step) / max(1, total - warm_up))
