"""Short answers as a request gets them, for timing: the real token loop on the real engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from pliant.slo.latency import PREFILL_CHUNK
from pliant.slo.schedule import Point

if TYPE_CHECKING:
    from pliant.engine.engine import Engine
    from pliant.engine.model import ElasticModel

Clock = Callable[[], float]


@dataclass(frozen=True)
class Visit:
    """A point that was measured: seconds to the first token, and per later token (None if the
    point has none)."""

    point: Point
    first_s: float
    step_s: float | None


@dataclass
class Rehearsal:
    """Answers prompts of a point's length at a point's depth, in a slot of its own."""

    model: "ElasticModel"
    clock: Clock
    slot: int
    tokens: list[int] = field(init=False)
    logits: npt.NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        # Ordinary words, repeated: which tokens they are does not matter for time.
        words = self.model.tokenizer.encode("the time and the name of a place ")
        self.tokens = (words * (PREFILL_CHUNK // len(words) + 1))[:PREFILL_CHUNK]
        self.logits = np.zeros((1, self.model.tokenizer.size), dtype=np.float32)
        self.logits[0, words[-1]] = 1.0

    def visit(self, level: int, point: Point) -> Visit:
        """Answer once at the level of this index."""
        from pliant.engine.generate import Request, TokenLoop
        from pliant.engine.sampling import SamplingParams

        begin = self.clock()
        request = Request(
            prompt=self.tokens[: point.num_tokens],
            level=self.model.levels[level],
            max_tokens=point.steps + 1,
            sampling=SamplingParams(),
            stop=(),
            logprobs=None,
            cancel=None,
            started=begin,
        )
        engine = cast("Engine", _Stage(self.model.engine, self.slot, point.start, self.logits))
        loop = TokenLoop(engine, self.model.tokenizer, request)
        times = [self.clock() for _ in loop.run_in(self.slot)][: point.steps + 1]
        step_s = (times[-1] - times[0]) / point.steps if point.steps else None
        return Visit(point, times[0] - begin, step_s)


@dataclass(frozen=True)
class _Stage:
    """The engine as the token loop sees it: it computes at another depth and slot than asked,
    and the answer goes on, whatever the model would say."""

    engine: "Engine"
    slot: int
    start: int
    logits: npt.NDArray[np.float32]

    def forward(self, plan: Any, spans: Sequence[Any]) -> npt.NDArray[np.float32]:
        from pliant.engine.span import Span

        moved = [Span(self.slot, s.tokens, s.start + self.start, s.outputs) for s in spans]
        self.engine.forward(plan, moved)
        return self.logits
