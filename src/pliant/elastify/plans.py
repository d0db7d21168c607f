"""Which levels a bundle gets: uniform plans, global ones, or whichever the text likes better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from pliant.bundle.architecture import Architecture
from pliant.bundle.cost import per_token_cost
from pliant.bundle.plan import Level, Plan
from pliant.elastify.allocation import allocate_levels
from pliant.elastify.gates import Gates
from pliant.elastify.levels import TARGET_RATIOS, LevelChoice, choose_levels
from pliant.elastify.source import SourceConfig
from pliant.elastify.windows import Windows, joined, spread
from pliant.errors import ElastifyError
from pliant.progress import Track, untracked

PLAN_KINDS = ("best", "uniform", "global")
DEFAULT_PLANS = "best"
# Dozens of passes over the model are spent on widths: this much text is enough for small models,
# and so many multiply-adds in each pass, but for the least text, for large ones.
MOST_PLAN_TOKENS = 4096
LEAST_PLAN_TOKENS = 1024
PLAN_MULTIPLY_ADDS = 10**12


@dataclass(frozen=True)
class PlanChoice:
    """The levels of `kind`; `losses` are mean next-token losses (nats) by kind and level."""

    kind: str
    choice: LevelChoice
    losses: Mapping[str, Mapping[float, float]]

    def lines(self) -> list[str]:
        """One sentence per kind that was measured, and one for what was taken."""
        told = [
            f"{kind} plans: loss "
            + ", ".join(f"{loss:.3f} at {ratio:g}" for ratio, loss in losses.items())
            for kind, losses in self.losses.items()
        ]
        return [*told, f"levels: {self.kind} plans"]

    def to_json(self) -> dict[str, Any]:
        """All of it, for `from_json`."""
        levels = [(one.ratio, one.plan.to_json(), one.cost) for one in self.choice.levels]
        losses = {kind: list(by_level.items()) for kind, by_level in self.losses.items()}
        return {"kind": self.kind, "levels": levels, "notes": self.choice.notes, "losses": losses}

    @staticmethod
    def from_json(value: Any) -> PlanChoice:
        """What `to_json` gave."""
        levels = (Level(ratio, Plan.from_json(rows), cost) for ratio, rows, cost in value["levels"])
        choice = LevelChoice(tuple(levels), tuple(value["notes"]))
        losses = {kind: dict(by_level) for kind, by_level in value["losses"].items()}
        return PlanChoice(value["kind"], choice, losses)

    def provenance(self) -> dict[str, Any]:
        """What the bundle remembers of it."""
        losses = {
            kind: {f"{ratio:g}": loss for ratio, loss in by_level.items()}
            for kind, by_level in self.losses.items()
        }
        return {"kind": self.kind, "losses": losses}


def check_plan_kind(kind: str) -> None:
    """Raises ElastifyError unless `kind` is one of PLAN_KINDS."""
    if kind not in PLAN_KINDS:
        raise ElastifyError(f"plan {kind!r} is not one of {', '.join(PLAN_KINDS)}")


def choose_plans(
    model: Any,
    config: SourceConfig,
    architecture: Architecture,
    batches: Sequence[Windows],
    anchors: Sequence[int],
    *,
    kind: str = DEFAULT_PLANS,
    targets: Sequence[float] = TARGET_RATIOS,
    block: int = 1,
    ff_block: int = 1,
    lora_rank: int = 0,
    track: Track = untracked,
) -> PlanChoice:
    """Levels of a reordered model, and the loss of each on half of `plan_tokens` of the windows.

    Global plans are found on the other half. "best" takes the kind with the lower mean loss
    at the levels below 1.0 that both have. `block`, `ff_block` and `lora_rank` are as in
    `choose_levels`.
    """
    check_plan_kind(kind)
    search, judge = _halves(spread(batches, plan_tokens(architecture)))
    limits: dict[str, Any] = {
        "targets": targets,
        "block": block,
        "ff_block": ff_block,
        "lora_rank": lora_rank,
    }
    found: dict[str, LevelChoice] = {}
    if kind != "global":
        found["uniform"] = choose_levels(architecture, anchors, **limits)
    if kind != "uniform":
        found["global"] = allocate_levels(
            model, config, architecture, search, track=track, **limits
        )
    losses = {}
    with Gates(model, config) as gates:
        for name, choice in found.items():
            levels = track(choice.levels, f"{name} plans", len(choice.levels))
            losses[name] = {level.ratio: _loss(gates, level, judge) for level in levels}
    best = _best(losses)
    return PlanChoice(best, found[best], losses)


def plan_tokens(architecture: Architecture) -> int:
    """How much of the text widths are chosen on."""
    affordable = PLAN_MULTIPLY_ADDS // per_token_cost(architecture, Plan.full(architecture))
    return min(max(affordable, LEAST_PLAN_TOKENS), MOST_PLAN_TOKENS)


def _halves(
    batches: Sequence[Windows],
) -> tuple[tuple[Windows, ...], tuple[Windows, ...]]:
    """Every other window, in batches as large; a single window is both."""
    windows = joined(batches)
    if len(windows) == 1:
        return (windows,), (windows,)
    size = len(batches[0])
    return windows.take(slice(0, None, 2)).split(size), windows.take(slice(1, None, 2)).split(size)


def _loss(gates: Gates, level: Level, batches: Sequence[Windows]) -> float:
    gates.set(level.plan)
    return gates.loss(batches)


def _best(losses: Mapping[str, Mapping[float, float]]) -> str:
    """The kind with the lowest mean loss at the levels that all of them have; the full one says
    nothing, unless there is no other."""
    shared = set.intersection(*(set(by_level) for by_level in losses.values()))
    ratios = (shared - {1.0}) or shared
    return min(losses, key=lambda kind: mean(losses[kind][ratio] for ratio in ratios))
