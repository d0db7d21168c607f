"""The rules that a bundle's levels keep."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pliant.bundle.architecture import Architecture
from pliant.bundle.cost import cost_ratio
from pliant.bundle.plan import Level, Plan
from pliant.errors import PlanError

COST_TOLERANCE = 1e-6


def check_levels(architecture: Architecture, levels: Sequence[Level]) -> None:
    """Raise PlanError unless the levels belong together.

    Ratios ascend within 0 < ratio <= 1 and end with the full model at 1.0; every plan fits in
    the next larger one, so that each level is a prefix of the same weights; costs are honest.
    """
    if not levels or levels[-1].ratio != 1.0 or levels[-1].plan != Plan.full(architecture):
        raise PlanError("the last level must be the full model with ratio 1.0")
    for level in levels:
        _check_level(architecture, level)
    for smaller, larger in pairwise(levels):
        if not smaller.ratio < larger.ratio:
            raise PlanError(f"levels {smaller.ratio:g} and {larger.ratio:g} do not ascend")
        if not smaller.plan.fits_in(larger.plan):
            raise PlanError(f"level {smaller.ratio:g} is not a part of level {larger.ratio:g}")


def _check_level(architecture: Architecture, level: Level) -> None:
    if not 0 < level.ratio <= 1:
        raise PlanError(f"level {level.ratio:g} is not in 0 < ratio <= 1")
    if level.adapter is not None:
        raise PlanError(f"level {level.ratio:g}: adapters are not supported by this version")
    level.plan.validate(architecture)
    cost = cost_ratio(architecture, level.plan)
    if not abs(level.cost - cost) <= COST_TOLERANCE:
        raise PlanError(f"level {level.ratio:g}: its cost is {cost:.6f}, not {level.cost:.6f}")
