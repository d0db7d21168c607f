"""What the orchestrator needs of a tiny language model, and scorers for its compression."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pliant.tlm.scores import TokenScore

if TYPE_CHECKING:
    from pliant.tlm.model import Reading


class Reader(Protocol):
    """Such as `pliant.tlm.model.TinyModel`."""

    @property
    def prompt_ratios(self) -> tuple[float, ...]:
        """Ascending, the last is 1.0."""

    @property
    def levels(self) -> tuple[float, ...]:
        """The bundle's levels, ascending."""

    def read(self, text: str, ttft: float | None = None, tpot: float | None = None) -> "Reading":
        """`ttft` and `tpot` are shares (0..1] of the full model's; None sets no limit."""

    def close(self) -> None: ...


class KnownScores:
    """A scorer of the one text that was read already."""

    def __init__(self, reading: "Reading") -> None:
        self._tokens = reading.tokens

    def scores(self, texts: Sequence[str]) -> list[list[TokenScore]]:
        return [list(self._tokens) for _ in texts]
