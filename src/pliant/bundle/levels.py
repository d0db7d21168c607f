"""The rules that a bundle's levels keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from types import MappingProxyType

from pliant.bundle.adapters import Adapter
from pliant.bundle.architecture import Architecture
from pliant.bundle.cost import cost_ratio
from pliant.bundle.plan import Level, Plan
from pliant.errors import PlanError

COST_TOLERANCE = 1e-6


def with_adapter(architecture: Architecture, level: Level, name: str, adapter: Adapter) -> Level:
    """`level` with the adapter in the file `name`, which is part of its cost."""
    cost = cost_ratio(architecture, level.plan, lora_rank=adapter.rank)
    return replace(level, cost=cost, adapter=name)


def check_levels(
    architecture: Architecture,
    levels: Sequence[Level],
    adapters: Mapping[str, Adapter] = MappingProxyType({}),
) -> None:
    """Raise PlanError unless the levels belong together.

    Ratios ascend within 0 < ratio <= 1 and end with the full model at 1.0, which has no adapter;
    every plan fits in the next larger one, so that each level is a prefix of the same weights;
    costs are honest, adapters included. `adapters` are the opened files by name; one that does
    not fit its level raises CorruptFileError.
    """
    if not levels or levels[-1].ratio != 1.0 or levels[-1].plan != Plan.full(architecture):
        raise PlanError("the last level must be the full model with ratio 1.0")
    if levels[-1].adapter is not None:
        raise PlanError("the full model has an adapter, but it must be the model as it was")
    for level in levels:
        _check_level(architecture, level, adapters)
    for smaller, larger in pairwise(levels):
        if not smaller.ratio < larger.ratio:
            raise PlanError(f"levels {smaller.ratio:g} and {larger.ratio:g} do not ascend")
        if not smaller.plan.fits_in(larger.plan):
            raise PlanError(f"level {smaller.ratio:g} is not a part of level {larger.ratio:g}")


def _check_level(architecture: Architecture, level: Level, adapters: Mapping[str, Adapter]) -> None:
    if not 0 < level.ratio <= 1:
        raise PlanError(f"level {level.ratio:g} is not in 0 < ratio <= 1")
    level.plan.validate(architecture)
    rank = 0
    if level.adapter is not None:
        adapter = adapters.get(level.adapter)
        if adapter is None:
            raise PlanError(f"level {level.ratio:g}: its adapter {level.adapter!r} is not there")
        adapter.check_fits(architecture, level.plan)
        rank = adapter.rank
    cost = cost_ratio(architecture, level.plan, lora_rank=rank)
    if not abs(level.cost - cost) <= COST_TOLERANCE:
        raise PlanError(f"level {level.ratio:g}: its cost is {cost:.6f}, not {level.cost:.6f}")
