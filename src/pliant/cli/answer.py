"""Answer one request, timed: choose the level, stream the text, compare with the SLO."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pliant.slo import LatencyModel, Limits, Slo, Strategy, choose, resolve

if TYPE_CHECKING:
    from pliant.engine.chat import Message
    from pliant.engine.model import ElasticModel
    from pliant.engine.sampling import SamplingParams


@dataclass(frozen=True)
class Choice:
    """What a request runs at, and what it is held to; `choose_ms` is what choosing took."""

    strategy: Strategy
    limits: Limits
    choose_ms: float


@dataclass(frozen=True)
class Answer:
    """A finished answer with its measured latencies.

    `ttft_ms` counts from the call, tokenization included. `tpot_ms` is None for an answer of
    fewer than two tokens.
    """

    text: str
    num_tokens: int
    level: float
    ttft_ms: float
    tpot_ms: float | None
    is_stopped: bool = False


def choose_level(
    model: "ElasticModel",
    latency: LatencyModel,
    messages: Sequence["Message"],
    slo: Slo,
    max_tokens: int,
) -> Choice:
    """The level for these messages, with the limits that the SLO means for them."""
    prompt_tokens = model.count_tokens(messages)
    begin = time.perf_counter()
    strategy = choose(latency, model.levels, prompt_tokens, slo, max_tokens)
    choose_ms = 1000 * (time.perf_counter() - begin)
    return Choice(strategy, resolve(latency, prompt_tokens, slo, max_tokens), choose_ms)


def stream_answer(
    model: "ElasticModel",
    messages: Sequence["Message"],
    level: float,
    max_tokens: int,
    sampling: "SamplingParams",
    *,
    show: Callable[[str], None] = lambda text: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Answer:
    """Generate at `level`; `show` gets each piece of text, `is_stopped` can end it between tokens.

    Raises RequestError for what the model cannot answer.
    """
    pieces: list[str] = []
    times: list[float] = []
    begin = time.perf_counter()
    chunks = model.stream(list(messages), level=level, max_tokens=max_tokens, sampling=sampling)
    stopped = False
    for chunk in chunks:
        times += [time.perf_counter()] * len(chunk.tokens)
        pieces.append(chunk.text)
        show(chunk.text)
        stopped = is_stopped()
        if stopped:
            chunks.close()
            break
    end = time.perf_counter()
    ttft_ms = 1000 * ((times[0] if times else end) - begin)
    tpot_ms = 1000 * (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None
    return Answer("".join(pieces), len(times), level, ttft_ms, tpot_ms, stopped)
