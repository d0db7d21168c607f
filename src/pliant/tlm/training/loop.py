"""The training loop of both heads: AdamW, seeded, and resumable at any step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pliant.tlm.training.options import TrainOptions
from pliant.training.adamw import CHECKPOINT_SECONDS, AdamW, rate_share

SORTED_BATCHES = 50
# More than the epochs and steps of a training: seeds that differ never share a stream.
_STRIDE = 1 << 40

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
        fingerprint: str,
    ) -> None:
        self._options = options
        self._optimizer = AdamW(
            parameters, checkpoint, fingerprint, weight_decay=options.weight_decay
        )

    @property
    def losses(self) -> list[float]:
        """One per step that is done."""
        return self._optimizer.losses

    def run(self, lengths: Sequence[int], step_loss: StepLoss, report: Report | None) -> None:
        """All epochs, each over the examples, of these lengths, in an order of its own."""
        options, optimizer = self._options, self._optimizer
        size = options.batch_size
        per_epoch = -(-len(lengths) // size)
        total = options.epochs * per_epoch
        saved = time.monotonic()
        order: list[int] = []
        while optimizer.step < total:
            epoch, position = divmod(optimizer.step, per_epoch)
            if position == 0 or not order:
                order = mixed_order(lengths, size, self._generator(epoch))
            chosen = order[position * size : (position + 1) * size]
            loss = step_loss(chosen, self._generator(options.epochs + optimizer.step))
            optimizer.update(loss, options.learning_rate * rate_share(optimizer.step, total))
            if report is not None:
                report(optimizer.step, total, self.losses[-1])
            if optimizer.step == total or time.monotonic() - saved >= CHECKPOINT_SECONDS:
                optimizer.save()
                saved = time.monotonic()

    def _generator(self, stream: int) -> torch.Generator:
        """Independent of what was drawn before, so that a resumed training draws the same."""
        return torch.Generator().manual_seed((self._options.seed * _STRIDE + stream) % (1 << 63))


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
