"""From what units are worth to a narrower plan: the least worth per cost goes first.

Widths of layers differ; only ends of prefixes are dropped, so every plan is nested in the one it
came from.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pliant.bundle.architecture import Architecture
from pliant.bundle.cost import per_token_cost
from pliant.bundle.plan import FF_STEP, LayerPlan, Plan
from pliant.elastify.units import UnitScores

TAIL = 0.5  # of a layer's width: how far ahead units are priced, beyond what goes at once


@dataclass(frozen=True)
class _Move:
    """Narrows one layer to `after`; the units it drops are worth `value` and cost `cost`."""

    layer: int
    after: LayerPlan
    value: float
    cost: int

    @property
    def price(self) -> float:
        return self.value / self.cost


class Narrowing:
    """Knows which widths the engine can run for weights whose attention output comes in blocks
    of `block` columns and whose `down` in blocks of `ff_block`.

    Every layer keeps at least one KV head and one step of neurons: a recovery adapter can mend a
    narrow layer and not a missing one. Costs are those with an adapter of `lora_rank`.
    """

    def __init__(
        self, architecture: Architecture, block: int, ff_block: int, lora_rank: int = 0
    ) -> None:
        self._architecture = architecture
        self._block = block
        self._ff_block = ff_block
        self._lora_rank = lora_rank
        self._full = Plan.full(architecture)
        self._cost_of_full = per_token_cost(architecture, self._full)

    def cost(self, plan: Plan) -> float:
        """Share of the full model's cost."""
        return self._cost(plan) / self._cost_of_full

    def smallest(self, plan: Plan) -> Plan:
        """The narrowest plan inside `plan`."""
        return Plan(tuple(self._smallest(layer) for layer in plan.layers))

    def tails_dropped(self, plan: Plan) -> Plan:
        """`plan` without the last TAIL of every layer's groups, query heads and neurons; at
        least one step of each, where there is one left."""
        return Plan(tuple(self._without_tails(layer) for layer in plan.layers))

    def narrow(self, plan: Plan, inner: Plan, values: UnitScores, target: float) -> Plan:
        """The plan between `plan` and `inner` that costs at most `target` (share of the full
        model's cost) and loses little of `values`; `inner` if that is not enough."""
        while self.cost(plan) > target:
            moves = list(self._moves(plan, inner, values))
            if not moves:
                return plan
            best = min(moves, key=lambda move: move.price)
            plan = self._applied(plan, best)
        return plan

    def widen(self, plan: Plan, ceiling: Plan, values: UnitScores, target: float) -> Plan:
        """`plan` with the MLP steps inside `ceiling` that still fit, the most worth first."""
        while True:
            fitting = [
                move
                for move in self._wider(plan, ceiling, values)
                if self.cost(self._applied(plan, move)) <= target
            ]
            if not fitting:
                return plan
            plan = self._applied(plan, max(fitting, key=lambda move: move.price))

    def _applied(self, plan: Plan, move: _Move) -> Plan:
        layers = list(plan.layers)
        layers[move.layer] = move.after
        return Plan(tuple(layers))

    def _moves(self, plan: Plan, inner: Plan, values: UnitScores) -> Iterator[_Move]:
        """Every narrower width of every layer, down to `inner`, one dimension at a time.

        Several steps at once compete with one: what is worth little may stand behind what is
        worth more.
        """
        for index, (layer, limit) in enumerate(zip(plan.layers, inner.layers, strict=True)):
            for ff in self._ff_widths(limit.ff, layer.ff):
                value = values.neurons[index, ff : layer.ff].sum()
                yield self._move(index, layer, replace(layer, ff=ff), value)
            queries = values.queries[index]
            for groups in self._group_widths(limit.kv_heads, layer):
                value = queries[groups : layer.kv_heads, : layer.heads_per_kv].sum()
                yield self._move(index, layer, replace(layer, kv_heads=groups), value)
            for heads in self._head_widths(limit.heads_per_kv, layer):
                value = queries[: layer.kv_heads, heads : layer.heads_per_kv].sum()
                yield self._move(index, layer, replace(layer, heads_per_kv=heads), value)

    def _wider(self, plan: Plan, ceiling: Plan, values: UnitScores) -> Iterator[_Move]:
        for index, (layer, limit) in enumerate(zip(plan.layers, ceiling.layers, strict=True)):
            widths = [ff for ff in self._ff_steps() if layer.ff < ff <= limit.ff]
            if widths:
                value = values.neurons[index, layer.ff : widths[0]].sum()
                yield self._move(index, layer, replace(layer, ff=widths[0]), value)

    def _move(self, index: int, before: LayerPlan, after: LayerPlan, value: float) -> _Move:
        costs = [self._cost(Plan((layer,))) for layer in (before, after)]
        return _Move(index, after, float(value), abs(costs[0] - costs[1]))

    def _cost(self, plan: Plan) -> int:
        return per_token_cost(self._architecture, plan, lora_rank=self._lora_rank)

    def _smallest(self, layer: LayerPlan) -> LayerPlan:
        choices = [
            LayerPlan(groups, heads, layer.ff)
            for groups in range(1, layer.kv_heads + 1)
            for heads in range(1, layer.heads_per_kv + 1)
            if self._runs(groups, heads)
        ]
        fewest = min(choices, key=lambda choice: choice.heads, default=layer)
        return replace(fewest, ff=min(self._ff_steps()[0], layer.ff))

    def _without_tails(self, layer: LayerPlan) -> LayerPlan:
        groups = self._group_widths(1, layer)
        heads = self._head_widths(1, layer)
        return LayerPlan(
            kv_heads=_nearest(groups, layer.kv_heads),
            heads_per_kv=_nearest(heads, layer.heads_per_kv),
            ff=_nearest(self._ff_widths(1, layer.ff), layer.ff),
        )

    def _ff_steps(self) -> list[int]:
        full, step = self._architecture.ff, math.lcm(FF_STEP, self._ff_block)
        return [*range(step, full, step), full]

    def _ff_widths(self, low: int, below: int) -> list[int]:
        return [ff for ff in self._ff_steps() if low <= ff < below]

    def _group_widths(self, low: int, layer: LayerPlan) -> list[int]:
        widths = range(max(1, low), layer.kv_heads)
        return [groups for groups in widths if self._runs(groups, layer.heads_per_kv)]

    def _head_widths(self, low: int, layer: LayerPlan) -> list[int]:
        widths = range(max(1, low), layer.heads_per_kv)
        return [heads for heads in widths if self._runs(layer.kv_heads, heads)]

    def _runs(self, groups: int, heads: int) -> bool:
        """Whether the attention output's columns fall on blocks: in one run of whole groups, or
        in a run per group."""
        a = self._architecture
        if (groups, heads) == (a.num_kv_heads, a.heads_per_kv):
            return True
        run = heads * a.head_dim * (groups if heads == a.heads_per_kv else 1)
        starts = 1 if heads == a.heads_per_kv else a.heads_per_kv * a.head_dim
        return run % self._block == 0 and (starts == 1 or starts % self._block == 0)


def _nearest(widths: Sequence[int], full: int) -> int:
    """The widest of `widths` that drops at least TAIL of `full`, or else the narrowest."""
    wanted = math.floor((1 - TAIL) * full)
    below = [width for width in widths if width <= wanted]
    return max(below, default=min(widths, default=full))
