"""TLMs with a fixed opinion."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pliant.tlm.model import Reading
from pliant.tlm.scores import TokenScore
from support.synthetic_latency import RATIOS

PROMPT_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def shares(favourite: float, of: tuple[float, ...]) -> tuple[float, ...]:
    """Probabilities that fall with the distance from `favourite`."""
    weights = [2.0 ** (-20 * abs(value - favourite)) for value in of]
    return tuple(weight / sum(weights) for weight in weights)


@dataclass
class FixedReader:
    """Thinks `level` and `prompt_ratio` best, and long words worth keeping; records what it
    read. Takes `seconds`."""

    level: float = 0.5
    prompt_ratio: float = 0.5
    levels: tuple[float, ...] = RATIOS
    prompt_ratios: tuple[float, ...] = PROMPT_RATIOS
    seconds: float = 0.0
    asked: list[tuple[str, float | None, float | None]] = field(default_factory=list)
    is_closed: bool = False
    worth: Callable[[str], float] = len

    def read(self, text: str, ttft: float | None = None, tpot: float | None = None) -> Reading:
        self.asked.append((text, ttft, tpot))
        time.sleep(self.seconds)
        words = re.finditer(r"\S+", text)
        return Reading(
            tuple(TokenScore(w.start(), w.end(), self.worth(w.group())) for w in words),
            shares(self.prompt_ratio, self.prompt_ratios),
            shares(self.level, self.levels),
        )

    def close(self) -> None:
        self.is_closed = True
