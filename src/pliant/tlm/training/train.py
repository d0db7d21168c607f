"""Trains the heads of the tiny language model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from pliant.errors import TrainingError
from pliant.tlm.labels.rows import DecisionRow, ScoreRow
from pliant.tlm.training.decision_examples import (
    SLO_PAIRS,
    DecisionExample,
    decision_examples,
    slo_rows,
)
from pliant.tlm.training.fingerprint import fingerprint
from pliant.tlm.training.loop import Report, TrainLoop
from pliant.tlm.training.network import TinyNetwork
from pliant.tlm.training.options import TrainOptions
from pliant.tlm.training.score_examples import NO_TARGET, ScoreExample, score_examples
from pliant.tlm.training.windows import collate, framed

_EMBEDDINGS = ("token_embd", "position_embd", "embd_norm", "trunk")
_SCORE = ("score", "score_head")
_DECISION = ("decision", "slo_embd", "pooler", "prompt_ratio_head", "level_head")


@dataclass(frozen=True)
class TrainLog:
    """`losses` has one value per step, the mean over the batch."""

    losses: tuple[float, ...]


def train_score_head(
    network: TinyNetwork,
    rows: Iterable[ScoreRow],
    options: TrainOptions,
    *,
    checkpoint: Path | None = None,
    report: Report | None = None,
) -> TrainLog:
    """Token classification on the words' keep values; with `train_trunk` the trunk learns too.

    With `checkpoint`, a file, a run that was cut short goes on where it was and ends equal.
    Raises TrainingError without labelled tokens.
    """
    examples = score_examples(network, rows)
    _require(examples, "score")
    parameters = _parameters(network, (*_SCORE, *(_EMBEDDINGS if options.train_trunk else ())))

    def step_loss(chosen: Sequence[int], generator: torch.Generator) -> Tensor:
        return _score_loss(network, [examples[index] for index in chosen], options, generator)

    owner = fingerprint("score", network.state_dict(), options, examples)
    loop = TrainLoop(parameters, options, checkpoint, owner)
    loop.run([len(each.ids) for each in examples], step_loss, report)
    return TrainLog(tuple(loop.losses))


def train_decision_head(
    network: TinyNetwork,
    rows: Iterable[DecisionRow],
    options: TrainOptions,
    *,
    checkpoint: Path | None = None,
    report: Report | None = None,
) -> TrainLog:
    """Both classifiers, on the examples that each row gives for every pair of SLO buckets.

    A step takes `slo_pairs` of them for each of its rows, the trunk stays as it is. `checkpoint`
    as above. Raises TrainingError without rows, and for rows with other levels or prompt ratios
    than the network's.
    """
    rows = list(rows)
    _require(rows, "decision")
    examples = decision_examples(network, rows, options)
    parameters = _parameters(network, _DECISION)

    def step_loss(chosen: Sequence[int], generator: torch.Generator) -> Tensor:
        return _decision_loss(network, [examples[index] for index in chosen], options, generator)

    owner = fingerprint("decision", network.state_dict(), options, rows)
    loop = TrainLoop(parameters, options, checkpoint, owner)
    lengths = [sum(map(len, each.windows)) for each in examples]
    loop.run(lengths, step_loss, report)
    return TrainLog(tuple(loop.losses))


def _score_loss(
    network: TinyNetwork,
    examples: Sequence[ScoreExample],
    options: TrainOptions,
    generator: torch.Generator,
) -> Tensor:
    batch = collate(network.config, [example.ids for example in examples])
    targets = framed([example.targets for example in examples], batch.tokens.shape[1], NO_TARGET)
    with torch.set_grad_enabled(options.train_trunk):
        x = network.read(batch.tokens, batch.visible)
    logits = network.score_logits(_dropout(x, options.dropout, generator), batch.visible)
    labelled = targets != NO_TARGET
    return binary_cross_entropy_with_logits(logits[labelled], targets[labelled])


def _decision_loss(
    network: TinyNetwork,
    examples: Sequence[DecisionExample],
    options: TrainOptions,
    generator: torch.Generator,
) -> Tensor:
    """Cross-entropy of both classifiers, for some SLO pairs of each text."""
    batch = collate(network.config, [ids for example in examples for ids in example.windows])
    with torch.no_grad():
        x = network.read(batch.tokens, batch.visible)
    chosen, windows, owners = _draw(examples, options, generator)
    slo = torch.tensor(slo_rows())[chosen.reshape(-1)]
    x = _dropout(x[windows], options.dropout, generator)
    logits = network.decision_logits(x, batch.visible[windows], owners, slo)
    pairs = list(zip(examples, chosen.tolist(), strict=True))
    ratios = [example.prompt_ratios[pair] for example, pair in pairs]
    levels = [example.levels[pair] for example, pair in pairs]
    ratio_loss, level_loss = (
        cross_entropy(found, torch.from_numpy(np.concatenate(wanted)).float())
        for found, wanted in zip(logits, (ratios, levels), strict=True)
    )
    return ratio_loss + level_loss


def _draw(
    examples: Sequence[DecisionExample], options: TrainOptions, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """SLO pairs [texts, slo_pairs]; then for each window of each of these examples its number in
    the batch, and which example it belongs to."""
    count = min(options.slo_pairs, len(SLO_PAIRS))
    chosen = torch.stack(
        [torch.randperm(len(SLO_PAIRS), generator=generator)[:count] for _ in examples]
    )
    windows: list[int] = []
    owners: list[int] = []
    first = 0
    for number, example in enumerate(examples):
        own = range(first, first + len(example.windows))
        for pair in range(count):
            windows += own
            owners += [number * count + pair] * len(own)
        first += len(own)
    return chosen, torch.tensor(windows), torch.tensor(owners)


def _dropout(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Drawn from the step's own generator, which a resumed training has again."""
    if share == 0:
        return x
    kept = torch.rand(x.shape, generator=generator) >= share
    return x * kept / (1 - share)


def _parameters(network: TinyNetwork, parts: Sequence[str]) -> dict[str, nn.Parameter]:
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if name.split(".")[0] in parts
    }


def _require(found: Sequence[object], head: str) -> None:
    if not found:
        raise TrainingError(f"there are no labels to train the {head} head on")
