"""`Survey`: what there is to choose from for one request."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pliant.slo.grid import Strategy, Work

if TYPE_CHECKING:
    from pliant.slo.shortening import Shortener
    from pliant.tlm.model import Reading


@dataclass(frozen=True)
class Survey:
    """The grid, and what the TLM's heads said of the prompt (None: not asked)."""

    work: Work
    candidates: tuple[Strategy, ...]
    reading: "Reading | None" = None
    shortener: "Shortener | None" = None

    @property
    def is_feasible(self) -> bool:
        return any(strategy.feasible for strategy in self.candidates)
