"""Measure what a request costs outside the engine: tokenizer, chat template, sampling, text.

The token loop runs with an engine that takes no time, so that other programs, which make forward
passes erratic, hardly matter.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from pliant.errors import TemplateError
from pliant.slo.latency import Overhead

if TYPE_CHECKING:
    from pliant.engine.engine import Engine
    from pliant.engine.generate import Generation
    from pliant.engine.model import ElasticModel, Prompt

_REPEATS = 9
_ANSWER_TOKENS = 16
_SHORT_WORDS = 10
_LONG_WORDS = 300


def measure_overhead(model: "ElasticModel") -> Overhead:
    """Medians over a few requests with a short and with a longer prompt; a few milliseconds."""
    short, long = (
        [_answer(model, "word " * min(words, model.engine.context_length // 4))
         for _ in range(_REPEATS)]
        for words in (_SHORT_WORDS, _LONG_WORDS)
    )  # fmt: skip
    extra_tokens = long[0].prompt_tokens - short[0].prompt_tokens
    short_ms, long_ms = (median(found.ttft_ms for found in group) for group in (short, long))
    per_token = max(0.0, long_ms - short_ms) / max(1, extra_tokens)
    return Overhead(
        request_ms=max(0.0, short_ms - per_token * short[0].prompt_tokens),
        prompt_token_ms=per_token,
        step_ms=median(found.tpot_ms or 0.0 for found in [*short, *long]),
    )


def _answer(model: "ElasticModel", text: str) -> "Generation":
    from pliant.engine.generate import Request, TokenLoop
    from pliant.engine.sampling import SamplingParams
    from pliant.engine.slots import SlotPool

    started = time.perf_counter()
    tokens = _encode(model, text)
    request = Request(
        prompt=tokens,
        level=model.levels[0],
        max_tokens=_ANSWER_TOKENS,
        sampling=SamplingParams(),
        stop=(),
        logprobs=None,
        cancel=None,
        started=started,
    )
    engine = cast("Engine", _InstantEngine.saying(tokens[-1], model.tokenizer.size))
    *_, last = TokenLoop(engine, model.tokenizer, SlotPool(1), request).run()
    assert last.generation is not None
    return last.generation


def _encode(model: "ElasticModel", text: str) -> list[int]:
    """As a chat message where the model has a template for it, else as bare text."""
    messages: Prompt = [{"role": "user", "content": text}]
    try:
        return model.encode_prompt(messages)
    except TemplateError:
        return model.encode_prompt(text)


@dataclass(frozen=True)
class _InstantEngine:
    """Forward passes that take no time and always say the same token."""

    logits: npt.NDArray[np.float32]

    @classmethod
    def saying(cls, token: int, vocab_size: int) -> "_InstantEngine":
        logits = np.zeros((1, vocab_size), dtype=np.float32)
        logits[0, token] = 1.0
        return cls(logits)

    def forward(self, _plan: Any, _spans: Sequence[Any]) -> npt.NDArray[np.float32]:
        return self.logits
