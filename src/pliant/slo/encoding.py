"""Measure what becomes of a prompt before the engine sees it: template, tokenizer, TLM."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from pliant.errors import TemplateError
from pliant.slo.latency import EncodeCost
from pliant.slo.reader import Reader
from pliant.tlm.protect import STRUCTURE

if TYPE_CHECKING:
    from pliant.engine.chat import Message
    from pliant.engine.model import ElasticModel, Prompt

    # A prompt and its tokens.
    _Run = Callable[[str | list[Message], Sequence[int]], object]

_REPEATS = 9
_REPEATS_S = 0.5
_SHORT_WORDS = 10
_LONG_WORDS = 300
_COMPRESSED = 0.5


def measure_encoding(model: "ElasticModel") -> EncodeCost:
    """Template and tokenizer; takes a few milliseconds."""
    return _measure(model, lambda prompt, _: model.encode_prompt(prompt))


def measure_reading(model: "ElasticModel", tlm: Reader) -> EncodeCost:
    """The TLM's pass with both heads; takes a second at most unless one pass does."""
    from pliant.tlm.compress import prompt_text

    return _measure(model, lambda prompt, _: tlm.read(prompt_text(prompt), 0.5, 0.5))


def measure_compressing(model: "ElasticModel") -> EncodeCost:
    """Shortening a prompt by scores that are known; takes a second at most."""
    from pliant.slo.shortening import Shortener
    from pliant.tlm.model import Reading

    nothing = Reading((), (), ())

    def shorten(prompt: "Prompt", tokens: Sequence[int]) -> None:
        Shortener(model, prompt, tokens, STRUCTURE).shorten(_COMPRESSED, nothing)

    return _measure(model, shorten)


def _measure(model: "ElasticModel", run: "_Run") -> EncodeCost:
    """From medians over a short and over a longer prompt, per token of the model."""
    room = model.engine.context_length // 4
    prompts = [sample_prompt(model, min(words, room)) for words in (_SHORT_WORDS, _LONG_WORDS)]
    short, long = (model.encode_prompt(prompt) for prompt in prompts)
    short_ms, long_ms = (
        _time_ms(partial(run, *each)) for each in zip(prompts, (short, long), strict=True)
    )
    token_ms = max(0.0, long_ms - short_ms) / max(1, len(long) - len(short))
    return EncodeCost(max(0.0, short_ms - token_ms * len(short)), token_ms)


def _time_ms(run: Callable[[], object]) -> float:
    times: list[float] = []
    end = time.perf_counter() + _REPEATS_S
    while not times or (len(times) < _REPEATS and time.perf_counter() < end):
        started = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - started))
    return median(times)


def sample_prompt(model: "ElasticModel", num_words: int) -> "str | list[Message]":
    """A word again and again, as a chat message where the model has a template, else as text."""
    text = "word " * num_words
    messages: list[Message] = [{"role": "user", "content": text}]
    try:
        model.encode_prompt(messages)
    except TemplateError:
        return text
    return messages
