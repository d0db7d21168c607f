"""Which level answers a call of a context, when the caller gave an SLO."""

from collections.abc import Callable
from typing import Protocol

from pliant.slo.choice import choose_by_rule, closest
from pliant.slo.grid import State, Work, make_grid
from pliant.slo.latency import LatencyModel
from pliant.slo.limits import resolve
from pliant.slo.online import OnlineLatency
from pliant.slo.slo import Slo


class Chooser(Protocol):
    """Chooses with both costs in view: what a level takes to restore, and to answer."""

    def choose(
        self,
        slo: Slo,
        *,
        new_tokens: int,
        context_tokens: int,
        max_tokens: int,
        restore_ms: Callable[[float], float],
    ) -> float:
        """A level's ratio."""


class LatencyChooser:
    """The largest level that meets the SLO; when none does, the largest of those closest to it.

    Prompts stay whole: what a context has answered before must still be there.
    """

    def __init__(self, latency: LatencyModel) -> None:
        self._latency = OnlineLatency(latency)

    def choose(
        self,
        slo: Slo,
        *,
        new_tokens: int,
        context_tokens: int,
        max_tokens: int,
        restore_ms: Callable[[float], float],
    ) -> float:
        base = self._latency.base
        limits = resolve(base, new_tokens, slo, max_tokens, start=context_tokens)
        state = State(context_tokens, restore_ms=restore_ms)
        work = Work(new_tokens, max_tokens, state=state)
        grid = make_grid(self._latency, work, base.ratios, (1.0,), limits)
        feasible = tuple(strategy for strategy in grid if strategy.feasible)
        return choose_by_rule(feasible or closest(grid)).level
