"""Global plans: all layers' units against each other, by what the loss pays for them.

The loss between a plan and a narrower one is shared out among the units that lie between them:
their gates are set half-way, and the derivative of the loss by a gate there is what its unit is
worth (integrated gradients, Sundararajan et al. 2017, section 3, by the midpoint rule). One pass
over the text so prices the end of every layer at once, in nats, with what the layers do to each
other; leaving out block by block would take a pass for each. Narrow layers and wide ones,
anchors too, are what comes of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pliant.bundle.architecture import Architecture
from pliant.bundle.plan import Plan
from pliant.elastify.gates import Gates
from pliant.elastify.levels import TARGET_RATIOS, LevelChoice, nested_levels
from pliant.elastify.narrowing import Narrowing
from pliant.elastify.source import SourceConfig
from pliant.elastify.units import UnitScores
from pliant.elastify.windows import Windows
from pliant.progress import Track, untracked

STAGE = 0.1  # of the full model's cost: after so much narrowing, units are priced again


def allocate_levels(
    model: Any,
    config: SourceConfig,
    architecture: Architecture,
    batches: Sequence[Windows],
    *,
    targets: Sequence[float] = TARGET_RATIOS,
    block: int = 1,
    ff_block: int = 1,
    lora_rank: int = 0,
    track: Track = untracked,
) -> LevelChoice:
    """Nested levels of a reordered model, each close to its target cost from below.

    Takes a forward and a backward pass over `batches` per STAGE of cost. `block`, `ff_block` and
    `lora_rank` are as in `choose_levels`. Deterministic on one machine.
    """
    narrowing = Narrowing(architecture, block, ff_block, lora_rank)
    with Gates(model, config) as gates:
        descent = _Descent(gates, narrowing, tuple(batches))
        return nested_levels(architecture, targets, descent, track)


@dataclass(frozen=True)
class _Descent:
    gates: Gates
    narrowing: Narrowing
    batches: tuple[Windows, ...]

    def cost(self, plan: Plan) -> float:
        return self.narrowing.cost(plan)

    def smallest(self, ceiling: Plan) -> Plan:
        return self.narrowing.smallest(ceiling)

    def largest(self, ceiling: Plan, target: float) -> Plan | None:
        plan = ceiling
        for stage in self._stages(ceiling, target):
            while self.narrowing.cost(plan) > stage:
                inner = self.narrowing.tails_dropped(plan)
                if inner == plan:
                    return None
                values = self._values(plan, inner)
                narrower = self.narrowing.narrow(plan, inner, values, stage)
                plan = self.narrowing.widen(narrower, plan, values, stage)
        return plan

    def _stages(self, ceiling: Plan, target: float) -> Iterator[float]:
        start = self.narrowing.cost(ceiling)
        count = max(1, math.ceil((start - target) / STAGE))
        return (start + (target - start) * (i + 1) / count for i in range(count))

    def _values(self, plan: Plan, inner: Plan) -> UnitScores:
        """Nats per token that dropping each unit of `plan` outside `inner` adds to the loss."""
        self.gates.set(plan, inner)
        slopes = self.gates.gradients(self.batches)
        return UnitScores(-slopes.heads, -slopes.queries, -slopes.neurons)
