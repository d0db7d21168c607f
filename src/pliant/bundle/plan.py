"""What a sub-model is: a `Plan` says how much of each layer runs, a `Level` names a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pliant.errors import PlanError

if TYPE_CHECKING:
    from pliant.bundle.architecture import Architecture

FF_STEP = 32


@dataclass(frozen=True)
class LayerPlan:
    """The prefix of one layer's units that runs.

    `kv_heads` KV heads, each with its first `heads_per_kv` query heads, and `ff` MLP neurons.
    `kv_heads == 0`: attention does not run; `ff == 0`: the MLP does not run.
    """

    kv_heads: int
    heads_per_kv: int
    ff: int

    @property
    def heads(self) -> int:
        """Query heads that run."""
        return self.kv_heads * self.heads_per_kv

    def fits_in(self, other: LayerPlan) -> bool:
        """Whether every unit that runs here also runs in `other`."""
        return (
            self.kv_heads <= other.kv_heads
            and self.heads_per_kv <= other.heads_per_kv
            and self.ff <= other.ff
        )


@dataclass(frozen=True)
class Plan:
    """One `LayerPlan` per layer, first layer first. Hashable: graphs are cached by it."""

    layers: tuple[LayerPlan, ...]

    @staticmethod
    def full(architecture: Architecture) -> Plan:
        """The plan that runs everything."""
        return Plan((_full_layer(architecture),) * architecture.num_layers)

    def validate(self, architecture: Architecture) -> None:
        """Raise PlanError unless a model of this architecture can run the plan."""
        if len(self.layers) != architecture.num_layers:
            raise PlanError(
                f"the plan has {len(self.layers)} layers, the model {architecture.num_layers}"
            )
        full = _full_layer(architecture)
        for index, layer in enumerate(self.layers):
            _check_layer(index, layer, full)

    def fits_in(self, other: Plan) -> bool:
        """Whether every unit that runs here also runs in `other`."""
        return len(self.layers) == len(other.layers) and all(
            mine.fits_in(theirs) for mine, theirs in zip(self.layers, other.layers, strict=True)
        )

    def to_json(self) -> list[list[int]]:
        """Per layer `[kv_heads, heads_per_kv, ff]`."""
        return [[layer.kv_heads, layer.heads_per_kv, layer.ff] for layer in self.layers]

    @staticmethod
    def from_json(value: Any) -> Plan:
        """Inverse of `to_json`; raises PlanError on anything else."""
        if not isinstance(value, list) or not all(_is_layer(row) for row in value):
            raise PlanError("a plan is a list of [kv_heads, heads_per_kv, ff] per layer")
        return Plan(tuple(LayerPlan(*row) for row in value))


@dataclass(frozen=True)
class Level:
    """A named plan.

    `ratio` is what the level is called, `cost` the predicted share of the full model's
    per-token cost (`cost.cost_ratio`). `adapter` is the name of the level's LoRA file.
    """

    ratio: float
    plan: Plan
    cost: float
    adapter: str | None = None


def _full_layer(architecture: Architecture) -> LayerPlan:
    heads_per_kv = architecture.num_heads // architecture.num_kv_heads
    return LayerPlan(architecture.num_kv_heads, heads_per_kv, architecture.ff)


def _is_layer(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 3 and all(type(number) is int for number in row)


def _check_layer(index: int, layer: LayerPlan, full: LayerPlan) -> None:
    for field in ("kv_heads", "heads_per_kv", "ff"):
        value, limit = getattr(layer, field), getattr(full, field)
        if not 0 <= value <= limit:
            raise PlanError(f"layer {index}: {field} is {value}, it must be in 0..{limit}")
    if layer.kv_heads > 0 and layer.heads_per_kv == 0:
        raise PlanError(f"layer {index}: {layer.kv_heads} KV heads with no query head")
    if layer.ff % FF_STEP != 0 and layer.ff != full.ff:
        raise PlanError(
            f"layer {index}: ff is {layer.ff}, it must be a multiple of {FF_STEP} or {full.ff}"
        )
