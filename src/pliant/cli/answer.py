"""Answer one request, timed from its arrival: choose the level, stream the text."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pliant.slo import LatencyModel, Limits, Slo, Strategy, choose, resolve
from pliant.slo.strategy import Policy

if TYPE_CHECKING:
    from pliant.engine.chat import Message
    from pliant.engine.generate import CancelSignal, Generation
    from pliant.engine.model import ElasticModel
    from pliant.engine.sampling import SamplingParams


@dataclass(frozen=True)
class Choice:
    """What a request runs at, and what it is held to; `choose_ms` is what choosing took."""

    strategy: Strategy
    limits: Limits
    choose_ms: float


@dataclass(frozen=True)
class Pace:
    """At what level requests run: a named one, or the largest that `latency` says meets `slo`.

    `policy` says what becomes of a request whose SLO no level is predicted to meet.
    """

    level: float = 1.0
    slo: Slo | None = None
    latency: LatencyModel | None = None
    policy: Policy = "best_effort"


@dataclass(frozen=True)
class Answer:
    """A finished answer; `ttft_ms` includes tokenizing the prompt and choosing the level.

    `choice` is None if the level was not chosen but named.
    """

    generation: "Generation"
    ttft_ms: float
    choice: Choice | None

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
        return self.choice is None or self.choice.limits.met_by(self.ttft_ms, self.tpot_ms)


def answer(
    model: "ElasticModel",
    messages: Sequence["Message"],
    pace: Pace,
    max_tokens: int,
    *,
    sampling: "SamplingParams | None" = None,
    show: Callable[[str], None] = lambda text: None,
    cancel: "CancelSignal | None" = None,
) -> Answer:
    """Stream the answer, each piece of text to `show`; `cancel` ends it between tokens.

    Raises RequestError for what the model cannot answer, SloError for an SLO that cannot be met
    under the policy `strict`.
    """
    arrived = time.perf_counter()
    tokens = model.encode_prompt(messages)
    max_tokens = min(max_tokens, model.room_after(len(tokens)))
    choice = _choose(model, pace, len(tokens), max_tokens)
    level = pace.level if choice is None else choice.strategy.level
    before_ms = 1000 * (time.perf_counter() - arrived)
    chunks = model.stream(
        tokens, level=level, max_tokens=max_tokens, sampling=sampling, cancel=cancel
    )
    for chunk in chunks:
        show(chunk.text)
    assert chunk.generation is not None
    return Answer(chunk.generation, before_ms + chunk.generation.ttft_ms, choice)


def _choose(
    model: "ElasticModel", pace: Pace, prompt_tokens: int, max_tokens: int
) -> Choice | None:
    if pace.slo is None or pace.latency is None:
        return None
    begin = time.perf_counter()
    strategy = choose(
        pace.latency, model.levels, prompt_tokens, pace.slo, max_tokens, policy=pace.policy
    )
    choose_ms = 1000 * (time.perf_counter() - begin)
    return Choice(strategy, resolve(pace.latency, prompt_tokens, pace.slo, max_tokens), choose_ms)
