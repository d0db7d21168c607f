"""Measure what becomes of a prompt before the engine sees it: chat template and tokenizer."""

import time
from statistics import median
from typing import TYPE_CHECKING

from pliant.errors import TemplateError
from pliant.slo.latency import EncodeCost

if TYPE_CHECKING:
    from pliant.engine.model import ElasticModel, Prompt

_REPEATS = 9
_SHORT_WORDS = 10
_LONG_WORDS = 300


def measure_encoding(model: "ElasticModel") -> EncodeCost:
    """From medians over a short and over a longer prompt; takes a few milliseconds."""
    (short, short_ms), (long, long_ms) = (
        _time(model, "word " * min(words, model.engine.context_length // 4))
        for words in (_SHORT_WORDS, _LONG_WORDS)
    )
    token_ms = max(0.0, long_ms - short_ms) / max(1, long - short)
    return EncodeCost(max(0.0, short_ms - token_ms * short), token_ms)


def _time(model: "ElasticModel", text: str) -> tuple[int, float]:
    """Tokens of a prompt and the milliseconds to get them."""
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        tokens = _encode(model, text)
        times.append(1000 * (time.perf_counter() - started))
    return len(tokens), median(times)


def _encode(model: "ElasticModel", text: str) -> list[int]:
    """As a chat message where the model has a template for it, else as bare text."""
    messages: Prompt = [{"role": "user", "content": text}]
    try:
        return model.encode_prompt(messages)
    except TemplateError:
        return model.encode_prompt(text)
