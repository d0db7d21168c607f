"""What was decided for a request, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pliant.errors import RequestError
from pliant.slo.grid import Strategy, Work
from pliant.slo.limits import Limits

if TYPE_CHECKING:
    from pliant.engine.model import Prompt
    from pliant.tlm.model import Reading

Policy = Literal["best_effort", "strict"]
"""When nothing is feasible: answer with the closest, flagged, or raise SloUnreachableError."""

Compression = Literal["auto", "off"] | float
"""`auto`: as the decision head thinks best; `off`: the whole prompt; or a prompt ratio (0..1]."""


@dataclass(frozen=True)
class Decision:
    """What a request will be run at, and how that was decided.

    `prompt` is what is left of it, `kept` the character ranges of its `prompt_text` that are (None:
    all), `tokens` what it is computed as; `candidates` the grid that
    was looked at and `reading` what the heads said (None: not asked). Milliseconds: `decide_ms`
    from arrival to here, of which the TLM's heads took `read_ms` and shortening `compress_ms`.
    """

    strategy: Strategy
    prompt: "Prompt"
    kept: tuple[tuple[int, int], ...] | None
    tokens: Sequence[int]
    candidates: tuple[Strategy, ...]
    reading: "Reading | None"
    limits: Limits
    why: str
    work: Work
    decide_ms: float
    read_ms: float
    compress_ms: float

    @property
    def prompt_ratio(self) -> float:
        """What is left of the prompt's tokens; above the strategy's where parts are protected."""
        return len(self.tokens) / self.work.prompt_tokens

    @property
    def max_tokens(self) -> int:
        """Of the answer, so that it fits the context."""
        return self.work.max_tokens


def check_compression(compression: Compression) -> None:
    """Raises RequestError for what is none."""
    is_ratio = isinstance(compression, int | float) and not isinstance(compression, bool)
    if not (compression in ("auto", "off") or (is_ratio and 0 < float(compression) <= 1)):
        raise RequestError(
            f"compression is {compression!r}; allowed: auto, off, or a prompt ratio above 0 and "
            "at most 1"
        )
