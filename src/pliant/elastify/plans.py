"""Which levels a bundle gets: uniform plans, global ones, or whichever the text likes better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch

from pliant.bundle.architecture import Architecture
from pliant.bundle.plan import Level
from pliant.elastify.allocation import allocate_levels
from pliant.elastify.gates import Gates
from pliant.elastify.levels import TARGET_RATIOS, LevelChoice, choose_levels
from pliant.elastify.source import SourceConfig
from pliant.errors import ElastifyError

PLAN_KINDS = ("best", "uniform", "global")


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
    batches: Sequence[torch.Tensor],
    anchors: Sequence[int],
    *,
    kind: str = "best",
    targets: Sequence[float] = TARGET_RATIOS,
    block: int = 1,
) -> PlanChoice:
    """Levels of a reordered model, and the loss of each on half of the windows.

    Global plans are found on the other half. "best" takes the kind with the lower mean loss
    below 1.0. `block` is the weight type's block length.
    """
    check_plan_kind(kind)
    search, judge = _halves(batches)
    found: dict[str, LevelChoice] = {}
    if kind != "global":
        found["uniform"] = choose_levels(architecture, anchors, targets=targets, block=block)
    if kind != "uniform":
        found["global"] = allocate_levels(
            model, config, architecture, search, targets=targets, block=block
        )
    with Gates(model, config) as gates:
        losses = {
            name: {level.ratio: _loss(gates, level, judge) for level in choice.levels}
            for name, choice in found.items()
        }
    best = min(found, key=lambda name: mean(_below_full(losses[name])))
    return PlanChoice(best, found[best], losses)


def _halves(
    batches: Sequence[torch.Tensor],
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Every other window, in batches as large; a single window is both."""
    windows = torch.cat(list(batches))
    if len(windows) == 1:
        return (windows,), (windows,)
    size = len(batches[0])
    return torch.split(windows[::2], size), torch.split(windows[1::2], size)


def _loss(gates: Gates, level: Level, batches: Sequence[torch.Tensor]) -> float:
    gates.set(level.plan)
    return gates.loss(batches)


def _below_full(losses: Mapping[float, float]) -> list[float]:
    """The full level says nothing, unless it is the only one."""
    return [loss for ratio, loss in losses.items() if ratio < 1.0] or list(losses.values())
