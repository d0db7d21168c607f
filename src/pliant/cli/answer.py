"""Answer one request as the user set the pace: a named level, or what the orchestrator decides."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pliant.errors import SloError, SloUnreachableError
from pliant.slo import Compression, Decision, Orchestrator, Policy, Slo

if TYPE_CHECKING:
    from pliant.contexts.report import CallReport
    from pliant.engine.chat import Message
    from pliant.engine.generate import CancelSignal, Chunk, Generation
    from pliant.engine.model import ElasticModel
    from pliant.engine.sampling import SamplingParams


@dataclass(frozen=True)
class Pace:
    """At what requests run: a level, or with an `slo` what `orchestrator` decides for it."""

    level: float = 1.0
    slo: Slo | None = None
    orchestrator: Orchestrator | None = None
    policy: Policy = "best_effort"
    compression: Compression = "auto"


@dataclass(frozen=True)
class Told:
    """A finished answer; `ttft_ms` counts from arrival. `decision` is None at a named level,
    `report` outside of persistent contexts."""

    generation: "Generation"
    ttft_ms: float
    decision: Decision | None = None
    report: "CallReport | None" = None

    @property
    def tpot_ms(self) -> float | None:
        """None for an answer of fewer than two tokens."""
        return self.generation.tpot_ms

    @property
    def is_stopped(self) -> bool:
        """Whether it was cancelled before its end."""
        return self.generation.finish_reason == "cancelled"

    @property
    def is_slo_met(self) -> bool:
        return self.decision is None or self.decision.limits.met_by(self.ttft_ms, self.tpot_ms)


def answer(
    model: "ElasticModel",
    messages: Sequence["Message"],
    pace: Pace,
    max_tokens: int,
    *,
    sampling: "SamplingParams | None" = None,
    show: Callable[[str], None] = lambda text: None,
    cancel: "CancelSignal | None" = None,
) -> Told:
    """Stream the answer, each piece of text to `show`; `cancel` ends it between tokens.

    Raises RequestError for what the model cannot answer, SloUnreachableError for an SLO that
    cannot be met under the policy `strict`.
    """
    if pace.slo is None or pace.orchestrator is None:
        generation = _show_all(
            model.stream(
                messages,
                level=pace.level,
                max_tokens=max_tokens,
                sampling=sampling,
                cancel=cancel,
            ),
            show,
        )
        return Told(generation, generation.ttft_ms)
    chunks = pace.orchestrator.stream(
        messages,
        pace.slo,
        max_tokens=max_tokens,
        policy=pace.policy,
        compression=pace.compression,
        sampling=sampling,
        cancel=cancel,
    )
    generation = _show_all(chunks, show)
    assert chunks.answer is not None
    return Told(generation, chunks.answer.ttft_ms, chunks.decision)


def spelled(error: SloUnreachableError, spell: Callable[[dict[str, str]], str]) -> SloError:
    """The same error with the SLO that can be met as one would type it; `spell` is given the
    sides, such as {"ttft": "19.1ms"}."""
    smallest = spell(Slo(**error.reachable).texts())
    return SloError(f"{error.problem}; the smallest SLO that can be met is {smallest}")


def _show_all(chunks: Iterable["Chunk"], show: Callable[[str], None]) -> "Generation":
    for chunk in chunks:
        show(chunk.text)
    assert chunk.generation is not None
    return chunk.generation
