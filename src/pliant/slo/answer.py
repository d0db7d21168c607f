"""An answer that was decided on, while it streams and when it is finished."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pliant.slo.decision import Decision

if TYPE_CHECKING:
    from collections.abc import Generator

    from pliant.engine.generate import Chunk, Generation


@dataclass(frozen=True)
class Answer:
    """A finished answer; `ttft_ms` counts from arrival: deciding and shortening are part of it."""

    generation: "Generation"
    decision: Decision
    ttft_ms: float

    @property
    def tpot_ms(self) -> float | None:
        """None for an answer of fewer than two tokens."""
        return self.generation.tpot_ms

    @property
    def is_slo_met(self) -> bool:
        return self.decision.limits.met_by(self.ttft_ms, self.tpot_ms)


class AnswerStream(Iterator["Chunk"]):
    """The chunks of an answer; `answer` is there after the last one."""

    def __init__(
        self,
        decision: Decision,
        chunks: "Generator[Chunk, None, None]",
        observe: "Callable[[Decision, Generation], None]",
    ) -> None:
        """`observe` is told of the finished generation."""
        self.decision = decision
        self.answer: Answer | None = None
        self._chunks = chunks
        self._observe = observe

    def __next__(self) -> "Chunk":
        chunk = next(self._chunks)
        if chunk.generation is not None:
            ttft_ms = self.decision.decide_ms + chunk.generation.ttft_ms
            self.answer = Answer(chunk.generation, self.decision, ttft_ms)
            self._observe(self.decision, chunk.generation)
        return chunk

    def close(self) -> None:
        """Cancel the answer between tokens."""
        self._chunks.close()
