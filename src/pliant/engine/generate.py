"""The token loop: prefill the prompt, then sample, emit and decode one token at a time."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from pliant.bundle import Level
from pliant.engine.engine import MAX_BATCH, Engine
from pliant.engine.sampling import Logits, Sampler, SamplingParams, log_softmax
from pliant.engine.slots import SlotPool
from pliant.engine.span import Span
from pliant.engine.stopping import TextStream
from pliant.engine.tokenizer import Tokenizer

FinishReason = Literal["stop", "length", "cancelled"]


class CancelSignal(Protocol):
    """Such as a threading.Event."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True)
class TokenLogprob:
    """A token's natural log-probability before any sampling option; `top` are the likeliest."""

    token: int
    piece: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True)
class Generation:
    """A finished answer.

    `text` ends before the stop string, `tokens` include those of the stop string but no
    end-of-generation token. `ttft_ms` counts from the call to the first token (or to the end,
    if there is none); `tpot_ms` is the mean over the later tokens, None with fewer than two.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    level: float
    ttft_ms: float
    tpot_ms: float | None
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True)
class Chunk:
    """One new token, with the text that is certain by now (often none, or several tokens').

    The last chunk of a stream has no token of its own but the rest of the text and the finished
    `generation`.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    generation: Generation | None = None


@dataclass(frozen=True)
class Request:
    """A checked request: `prompt` fits the context with `max_tokens` more.

    `logprobs` is the number of alternatives to report, None for none at all; `started` is the
    time.perf_counter() of the call.
    """

    prompt: Sequence[int]
    level: Level
    max_tokens: int
    sampling: SamplingParams
    stop: tuple[str, ...]
    logprobs: int | None
    cancel: CancelSignal | None
    started: float


def prompt_spans(slot: int, prompt: Sequence[int], computed: int = 0) -> Iterator[Span]:
    """`prompt` after its first `computed` tokens, in batches for `slot`; only the last one gives
    logits, of its last token."""
    for start in range(computed, len(prompt), MAX_BATCH):
        tokens = prompt[start : start + MAX_BATCH]
        is_last = start + MAX_BATCH >= len(prompt)
        yield Span(slot, tokens, start, "last" if is_last else "none")


class TokenLoop:
    """Generates one answer; `run` or `run_in` may be called once.

    `computed` is how many tokens of prompt and answer have keys and values in the slot, `end` the
    end-of-generation token that the model chose.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, request: Request) -> None:
        """Raises SamplingError for a grammar or token that does not exist."""
        self.computed = 0
        self.end: int | None = None
        self._engine = engine
        self._tokenizer = tokenizer
        self._request = request
        self._sampler = Sampler(request.sampling, tokenizer)
        self._text = TextStream(request.stop)
        self._tokens: list[int] = []
        self._parts: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._first_at: float | None = None
        self._last_at = request.started

    def run(self, slots: SlotPool) -> Generator[Chunk, None, None]:
        """Chunks up to the end; closing the generator cancels and gives the slot back.

        Raises BusyError if no slot is free.
        """
        with slots.lease() as [slot]:
            yield from self.run_in(slot)

    def run_in(self, slot: int, computed: int = 0) -> Generator[Chunk, None, None]:
        """As `run`, in a slot of the caller's that has the first `computed` tokens of the prompt,
        fewer than all."""
        self.computed = computed
        with closing(self._sampler):
            reason = yield from self._decode(slot)
            yield self._last_chunk(reason)

    def _decode(self, slot: int) -> Generator[Chunk, None, FinishReason]:
        request = self._request
        for span in prompt_spans(slot, request.prompt, self.computed):
            if self._is_cancelled():
                return "cancelled"
            rows = self._engine.forward(request.level, [span])
            self.computed = span.start + len(span.tokens)
        logits: Logits = rows[-1]
        self._sampler.prime(request.prompt)
        while (token := self._sampler.sample(logits)) is not None:
            if token in self._tokenizer.eog:
                self.end = token
                return "stop"
            self._clock()
            self._sampler.accept(token)
            yield self._chunk(token, logits)
            if self._text.stopped:
                return "stop"
            if len(self._tokens) == request.max_tokens:
                return "length"
            if self._is_cancelled():
                return "cancelled"
            position = len(request.prompt) + len(self._tokens) - 1
            logits = self._engine.forward(request.level, [Span(slot, (token,), position)])[0]
            self.computed = position + 1
        return "stop"

    def _chunk(self, token: int, logits: Logits) -> Chunk:
        self._tokens.append(token)
        text = self._text.feed(self._tokenizer.piece(token))
        self._parts.append(text)
        if self._request.logprobs is None:
            return Chunk(text, (token,))
        logprob = self._logprob(token, logits, self._request.logprobs)
        self._logprobs.append(logprob)
        return Chunk(text, (token,), (logprob,))

    def _logprob(self, token: int, logits: Logits, alternatives: int) -> TokenLogprob:
        values = log_softmax(logits)

        def entry(token: int) -> TokenLogprob:
            return TokenLogprob(token, self._tokenizer.piece(token), float(values[token]))

        count = min(alternatives, len(values))
        likeliest = np.argpartition(-values, count - 1)[:count] if count else np.empty(0, np.int64)
        ordered = sorted(likeliest.tolist(), key=lambda other: (-values[other], other))
        return replace(entry(token), top=tuple(entry(other) for other in ordered))

    def _last_chunk(self, reason: FinishReason) -> Chunk:
        rest = self._text.finish()
        self._parts.append(rest)
        if self._text.stopped:
            reason = "stop"
        request = self._request
        if self._first_at is None:
            self._clock()
        count = len(self._tokens)
        span_ms = 1000 * (self._last_at - (self._first_at or 0.0))
        generation = Generation(
            text="".join(self._parts),
            tokens=tuple(self._tokens),
            finish_reason=reason,
            prompt_tokens=len(request.prompt),
            level=request.level.ratio,
            ttft_ms=1000 * ((self._first_at or 0.0) - request.started),
            tpot_ms=span_ms / (count - 1) if count > 1 else None,
            logprobs=None if request.logprobs is None else tuple(self._logprobs),
        )
        return Chunk(rest, (), generation=generation)

    def _clock(self) -> None:
        """Note the time of a token; one that ends the generation counts only if it is alone."""
        now = time.perf_counter()
        if self._first_at is None:
            self._first_at = now
        self._last_at = now

    def _is_cancelled(self) -> bool:
        return self._request.cancel is not None and self._request.cancel.is_set()
