"""What the decision head learns from: for every pair of SLO buckets, which strategy to take.

Self-induced labels (ElastiLM, arXiv 2409.09071, section 3.3): of the strategies that an SLO
allows, the lightest that the LLM answered right with; if none was, the one that is right most
often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from pliant.errors import TrainingError
from pliant.tlm.config import TlmConfig
from pliant.tlm.labels.rows import DecisionRow
from pliant.tlm.slo_tokens import TPOT_BUCKETS, TTFT_BUCKETS, slo_tokens
from pliant.tlm.training.network import TinyNetwork
from pliant.tlm.training.options import TrainOptions
from pliant.tlm.windows import cut, deciding

_TOLERANCE = 1e-6

_PRIOR = 0.5
"""What all texts together count for in a soft target: one text's outcome says little of the next,
and a head that has seen a few hundred learns from the mean what it cannot learn from each."""
SLO_PAIRS = tuple(product(TTFT_BUCKETS, TPOT_BUCKETS))

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DecisionExample:
    """One text: its deciding windows, and per SLO pair the targets, float64 [pairs, ratios] and
    [pairs, levels], rows adding up to 1."""

    windows: tuple[tuple[int, ...], ...]
    prompt_ratios: Floats
    levels: Floats


class Feasible:
    """Which strategies each SLO pair allows: bool [levels, prompt ratios] by number of the pair.

    Where the smallest level is above a limit, it is allowed nevertheless: it comes closest.
    """

    def __init__(self, config: TlmConfig) -> None:
        levels, ratios = np.array(config.levels), np.array(config.prompt_ratios)
        self.cost: Floats = levels[:, None] * ratios
        self.tables = [self._table(levels, ttft, tpot) for ttft, tpot in SLO_PAIRS]

    def _table(self, levels: Floats, ttft: float, tpot: float) -> NDArray[np.bool_]:
        fast_enough = levels <= max(tpot, levels[0]) + _TOLERANCE
        short_enough = self.cost <= max(ttft, self.cost[0, 0]) + _TOLERANCE
        table: NDArray[np.bool_] = fast_enough[:, None] & short_enough
        return table


def slo_rows() -> list[tuple[int, int]]:
    """The SLO tokens of every pair, in the order of SLO_PAIRS."""
    return [slo_tokens(ttft, tpot) for ttft, tpot in SLO_PAIRS]


def decision_examples(
    network: TinyNetwork, rows: Sequence[DecisionRow], options: TrainOptions
) -> list[DecisionExample]:
    """Raises TrainingError for rows with other levels or prompt ratios than the network's."""
    for row in rows:
        _check_row(network.config, row)
    feasible = Feasible(network.config)
    safety: Floats = np.mean([row.right for row in rows], axis=0)
    examples = []
    for row in rows:
        targets = [_target(row, safety, feasible.cost, table, options) for table in feasible.tables]
        pairs = np.array(targets)
        examples.append(
            DecisionExample(_windows(network, row.text), pairs.sum(axis=1), pairs.sum(axis=2))
        )
    return examples


def _windows(network: TinyNetwork, text: str) -> tuple[tuple[int, ...], ...]:
    ids = network.vocabulary.tokenizer(text).ids
    spans = cut(len(ids), network.config.room)
    return tuple(tuple(ids[spans[i].start : spans[i].stop]) for i in deciding(len(spans)))


def _target(
    row: DecisionRow,
    safety: Floats,
    cost: Floats,
    table: NDArray[np.bool_],
    options: TrainOptions,
) -> Floats:
    """A distribution over strategies, [levels, prompt ratios]."""
    hard = np.zeros(cost.shape)
    hard[label(np.array(row.right, dtype=bool), safety, cost, table)] = 1.0
    if options.soft_weight == 0:
        return hard
    worth = _PRIOR * safety + (1 - _PRIOR) * np.array(row.probability)
    sharpened = np.exp((worth - worth[table].max()) / options.soft_temperature) * table
    soft: Floats = sharpened / sharpened.sum()
    return (1 - options.soft_weight) * hard + options.soft_weight * soft


def label(
    right: NDArray[np.bool_], safety: Floats, cost: Floats, table: NDArray[np.bool_]
) -> tuple[int, int]:
    """Level and prompt ratio: the lightest right one of `table`, else the safest of it.

    Of equally light ones the lower level, which also answers faster.
    """
    light = right & table
    if light.any():
        index = int(np.where(light, cost.round(6), np.inf).argmin())
    else:
        best = np.where(table, safety, -1.0).max()
        index = int(np.where(table & (safety == best), cost.round(6), np.inf).argmin())
    level, ratio = np.unravel_index(index, cost.shape)
    return int(level), int(ratio)


def _check_row(config: TlmConfig, row: DecisionRow) -> None:
    for name in ("levels", "prompt_ratios"):
        found, expected = getattr(row, name), getattr(config, name)
        if len(found) != len(expected) or not np.allclose(found, expected, atol=_TOLERANCE):
            raise TrainingError(f"a label has the {name} {found}, the network {expected}")
