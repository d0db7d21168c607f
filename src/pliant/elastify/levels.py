"""Nine sizes of one model: which plan is the best one at a given share of the full cost.

Ratios are shares of the full model's per-token cost, output head included. What a model
cannot reach is said, not faked. Needs no torch.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from pliant.bundle.architecture import Architecture
from pliant.bundle.cost import cost_ratio
from pliant.bundle.plan import FF_STEP, LayerPlan, Level, Plan
from pliant.progress import Track, untracked

TARGET_RATIOS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
COST_TOLERANCE = 1e-9
# What one unit of imbalance between attention and MLP is worth in cost: enough to decide between
# plans that use the target about equally well, too little to leave much of it unused.
BALANCE_WEIGHT = 0.1
# Anchor layers are so many times as wide as the others, at most whole; the first that fits is
# taken. Whole anchors that leave next to nothing of the other layers do worse than narrower ones.
ANCHOR_ADVANTAGES = (2, 1)


@dataclass(frozen=True)
class LevelChoice:
    """`levels` ascend and are nested, the last is 1.0; `notes` say which targets are missing."""

    levels: tuple[Level, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Candidate:
    """A plan within the target; `loss` is what it leaves unused, and its imbalance."""

    plan: Plan
    loss: float


def choose_levels(
    architecture: Architecture,
    anchors: Sequence[int],
    *,
    targets: Sequence[float] = TARGET_RATIOS,
    block: int = 1,
    ff_block: int = 1,
    lora_rank: int = 0,
) -> LevelChoice:
    """The largest plan within each target, each nested in the one above it, and the full model.

    All layers but the anchors share one width. Anchors stay whole while the others keep half of
    their width, and are about twice as wide below that. If even the smallest plan costs more
    than a target, that plan becomes the last level under its own cost (rounded up to 2
    decimals). `block` and `ff_block` are the block lengths of the matrices that attention
    and MLP end with: widths are whole blocks of them. An adapter of `lora_rank` on every level
    but the full one counts against its target; costs are stated without it, as the levels have
    none yet.
    """
    search = _Search(architecture, frozenset(anchors), block, ff_block, lora_rank)
    return nested_levels(architecture, targets, search)


class Search(Protocol):
    """A way to find plans."""

    def cost(self, plan: Plan) -> float:
        """Share of the full model's cost, with what the level's adapter will add."""
        ...

    def largest(self, ceiling: Plan, target: float) -> Plan | None:
        """A plan inside `ceiling` that costs at most `target`, or None if there is none."""
        ...

    def smallest(self, ceiling: Plan) -> Plan:
        """The plan inside `ceiling` that costs least."""
        ...


def nested_levels(
    architecture: Architecture,
    targets: Sequence[float],
    search: Search,
    track: Track = untracked,
) -> LevelChoice:
    """Levels from the largest target down, each inside the one above it.

    Where no plan meets a target, the smallest one becomes the last level under its own cost
    (rounded up to 2 decimals).
    """
    levels = [Level(1.0, Plan.full(architecture), 1.0)]
    notes: list[str] = []
    descending = sorted(set(targets), reverse=True)
    for target in track(descending, "widths of layers", len(descending)):
        plan = search.largest(levels[-1].plan, target)
        if plan is None:
            floor = search.smallest(levels[-1].plan)
            level = Level(_rounded_up(search.cost(floor)), floor, cost_ratio(architecture, floor))
            if level.ratio < levels[-1].ratio and floor != levels[-1].plan:
                levels.append(level)
            notes.append(
                f"levels up to {target:g} cannot be reached: the smallest plan costs "
                f"{search.cost(floor):.3f} of the full model (output head included)"
            )
            break
        if plan == levels[-1].plan:
            dropped = levels.pop()
            notes.append(f"level {dropped.ratio:g} left out: it would equal level {target:g}")
        levels.append(Level(target, plan, cost_ratio(architecture, plan)))
    return LevelChoice(tuple(reversed(levels)), tuple(notes))


def _rounded_up(cost: float) -> float:
    return math.ceil(cost * 100 - COST_TOLERANCE) / 100


class _Search:
    """Finds plans for one architecture; remembers nothing between calls."""

    def __init__(
        self,
        architecture: Architecture,
        anchors: frozenset[int],
        block: int,
        ff_block: int,
        lora_rank: int,
    ) -> None:
        self._architecture = architecture
        self._lora_rank = lora_rank
        # Where every layer is an anchor, none stands out.
        self._anchors = anchors if len(anchors) < architecture.num_layers else frozenset()
        kv_columns = architecture.heads_per_kv * architecture.head_dim
        full = architecture.num_kv_heads
        self._kv_widths = [n for n in range(1, full) if n * kv_columns % block == 0] + [full]
        step = math.lcm(FF_STEP, ff_block)
        self._ff_widths = [*range(step, architecture.ff, step), architecture.ff]

    def cost(self, plan: Plan) -> float:
        return cost_ratio(self._architecture, plan, lora_rank=self._lora_rank)

    def largest(self, ceiling: Plan, target: float) -> Plan | None:
        """The plan inside `ceiling` that comes closest to `target` from below, or None.

        Of plans about equally close the balanced one: attention and MLP at about the same share
        of their width.
        """
        for advantage in ANCHOR_ADVANTAGES:
            candidates = list(self._candidates(ceiling, advantage, target))
            if candidates:
                best = min(candidates, key=lambda candidate: candidate.loss)
                return self._with_wider_anchors(best.plan, ceiling, target)
        return None

    def smallest(self, ceiling: Plan) -> Plan:
        return self._narrowed(ceiling, 1, self._kv_widths[0], self._ff_widths[0])

    def _candidates(self, ceiling: Plan, advantage: int, target: float) -> Iterator[_Candidate]:
        """For each attention width the widest MLP that meets the target."""
        for kv_heads in self._kv_widths:
            plan = self._widest(partial(self._narrowed, ceiling, advantage, kv_heads), target)
            if plan is not None:
                unused = target - self.cost(plan)
                yield _Candidate(plan, unused + BALANCE_WEIGHT * self._imbalance(plan))

    def _imbalance(self, plan: Plan) -> float:
        layer = next(one for index, one in enumerate(plan.layers) if index not in self._anchors)
        full = self._architecture
        return abs(layer.kv_heads / full.num_kv_heads - layer.ff / full.ff)

    def _with_wider_anchors(self, plan: Plan, ceiling: Plan, target: float) -> Plan:
        """What one step more in every layer would exceed, the anchors' MLPs may still take."""

        def widened(ff: int) -> Plan:
            layers = zip(plan.layers, ceiling.layers, strict=True)
            return Plan(
                tuple(
                    replace(layer, ff=min(max(layer.ff, ff), limit.ff))
                    if index in self._anchors
                    else layer
                    for index, (layer, limit) in enumerate(layers)
                )
            )

        return self._widest(widened, target) or plan

    def _widest(self, plan_of: Callable[[int], Plan], target: float) -> Plan | None:
        """The plan of the widest MLP whose cost is within the target, or None."""
        fitting = bisect_right(
            self._ff_widths, target + COST_TOLERANCE, key=lambda ff: self.cost(plan_of(ff))
        )
        return plan_of(self._ff_widths[fitting - 1]) if fitting else None

    def _narrowed(self, ceiling: Plan, advantage: int, kv_heads: int, ff: int) -> Plan:
        """`ceiling` with at most this width, anchors at most `advantage` times it."""

        def width(index: int, layer: LayerPlan) -> LayerPlan:
            factor = advantage if index in self._anchors else 1
            return LayerPlan(
                kv_heads=min(layer.kv_heads, factor * kv_heads),
                heads_per_kv=layer.heads_per_kv,
                ff=min(layer.ff, factor * ff),
            )

        return Plan(tuple(width(index, layer) for index, layer in enumerate(ceiling.layers)))
