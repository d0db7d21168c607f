"""What answers lose when the context before the question was compressed and restored."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np

from _requests import APPS, TOP_LEVEL, Scene, make_scene
from pliant.contexts.bits import assign_bits
from pliant.contexts.chunk import section_format
from pliant.contexts.codec import Bits, ChunkCodec
from pliant.contexts.density import head_densities
from pliant.engine.model import ElasticModel
from pliant.engine.sampling import log_softmax
from pliant.engine.span import Span
from pliant.ggml.quantize import dequantize, quantize
from pliant.ggml.types import TYPE_SIZES, GgmlType

TURNS = 3
MIN_CONTEXT_CHARS = 400
SOURCE, RESTORED = 0, 1


@dataclass(frozen=True)
class Case:
    """`tokens` up to the answer of the last turn; the first `stored` were kept from before."""

    app: str
    tokens: list[int]
    stored: int
    choices: list[list[int]]
    right: int


@dataclass(frozen=True)
class Outcome:
    """One case with one format. `kl`: nats per token of the right answer, against lossless."""

    app: str
    is_right: bool
    kl: float
    bits: float


def make_cases(model: ElasticModel, per_app: int, chunk_tokens: int, seed: int) -> list[Case]:
    """Conversations of which at least two chunks were stored before the last question."""
    cases = []
    for app in APPS:
        rng = random.Random(f"kv-{app}-{seed}")
        found: dict[str, Case] = {}
        while len(found) < per_app:
            scene = make_scene(app, rng, TOP_LEVEL, TURNS, held_out=True)
            is_long = len(scene.turns) > 1 and len(scene.context) >= MIN_CONTEXT_CHARS
            if is_long and len(scene.turns[-1].choices) > 1:
                case = _case(model, scene)
                if case.stored >= 2 * chunk_tokens:
                    found.setdefault(scene.context, case)
        cases += found.values()
    return cases


def _case(model: ElasticModel, scene: Scene) -> Case:
    messages = scene.conversation()
    before, last = model.encode_prompt(messages[:-3]), scene.turns[-1]
    answer = model.tokenizer.encode_continuation("", scene.turns[-2].answer)
    choices = [model.tokenizer.encode_continuation("", choice) for choice in last.choices]
    tokens = model.encode_prompt(messages[:-1])
    return Case(scene.app, tokens, len(before) + len(answer), choices, last.answer_index)


class Quality:
    """Answers cases at the full level, with stored chunks in given formats."""

    def __init__(self, model: ElasticModel, codec: ChunkCodec, chunk_tokens: int) -> None:
        self._engine, self._codec, self._tokens = model.engine, codec, chunk_tokens
        self._level = model.levels[-1]
        self._heads = [layer.kv_heads for layer in self._level.plan.layers]
        size = chunk_tokens, model.engine.architecture.head_dim, model.engine.options.kv_type
        self._sections = {bits: section_format(bits, *size) for bits in (8, 4, 2)}

    def run(self, cases: Sequence[Case], formats: dict[str, Any]) -> dict[str, list[Outcome]]:
        """`formats`: bits for all, ("mixed" or "shuffled", average), or ggml types of keys and
        values as they lie in the cache. The first must be LOSSLESS."""
        found: dict[str, list[Outcome]] = {name: [] for name in formats}
        for number, case in enumerate(cases):
            self._forward(SOURCE, case.tokens[: case.stored], 0)
            densities = self._densities(case)
            chunks = case.stored // self._tokens
            reference = None
            known: dict[Any, tuple[bool, np.ndarray]] = {}
            for name, format_ in formats.items():
                key, size, restore = self._plan(format_, densities, chunks, number)
                if key not in known:
                    restore()
                    known[key] = self._answer(case, chunks * self._tokens)
                is_right, logs = known[key]
                reference = logs if reference is None else reference
                kl = float((np.exp(reference) * (reference - logs)).sum(axis=1).mean())
                found[name].append(Outcome(case.app, is_right, kl, size))
            if number % 50 == 49:
                print(f"answered {number + 1} of {len(cases)}", file=sys.stderr)
        return found

    def _plan(
        self, format_: Any, densities: list[float], chunks: int, seed: int
    ) -> tuple[Any, float, Callable[[], None]]:
        """What tells results apart, bits per value, and what puts the chunks into RESTORED."""
        if isinstance(format_, tuple) and isinstance(format_[0], GgmlType):
            size = mean(_bits_of(type_) for type_ in format_)
            return format_, size, lambda: self._requantize(chunks, *format_)
        bits: Bits = format_
        if isinstance(format_, tuple):
            kind, average = format_
            if kind == "shuffled":
                densities = random.Random(seed).sample(densities, len(densities))
            nbytes = {bits: section.nbytes for bits, section in self._sections.items()}
            bits = tuple(assign_bits(densities, nbytes, self._sections[8].num_values, average))
        size = self._codec.format(self._heads, self._tokens, bits).bits_per_value
        return bits, size, lambda: self._restore(bits, chunks)

    def _densities(self, case: Case) -> list[float]:
        tokens = case.tokens[: case.stored]
        layers = head_densities(self._engine, self._level, SOURCE, tokens)
        return [float(density) for layer in layers for density in layer]

    def _restore(self, bits: Bits, chunks: int) -> None:
        encoded = [
            (start, self._codec.encode(SOURCE, start, self._tokens, self._heads, bits))
            for start in range(0, chunks * self._tokens, self._tokens)
        ]
        self._codec.decode(RESTORED, encoded, range(len(self._heads)), self._heads)

    def _requantize(self, chunks: int, key_type: GgmlType, value_type: GgmlType) -> None:
        """Rows as they are, in one ggml type, as llama.cpp's quantized caches keep them."""
        kv, count = self._engine.kv, chunks * self._tokens
        first = kv.first_row(RESTORED)
        for half, type_ in enumerate((key_type, value_type)):
            rows = np.ascontiguousarray(kv.rows[half::2, :count]).view(np.float16)
            flat = rows.astype(np.float32).reshape(-1, rows.shape[-1])
            stored = dequantize(quantize(flat, type_), type_).astype(np.float16)
            kv.rows[half::2, first : first + count] = stored.view(np.uint8).reshape(
                len(rows), count, -1
            )

    def _answer(self, case: Case, restored: int) -> tuple[bool, np.ndarray]:
        """Whether the likeliest choice is right; log-probabilities along the right one."""
        end = len(case.tokens)
        last = log_softmax(self._forward(RESTORED, case.tokens[restored:], restored))[-1:]
        scores, right = [], last
        for index, choice in enumerate(case.choices):
            logs = last
            if len(choice) > 1:
                span = Span(RESTORED, choice[:-1], end, "all")
                rows = log_softmax(self._engine.forward(self._level, [span]))
                logs = np.concatenate([last, rows])
            scores.append(logs[np.arange(len(choice)), choice].mean())
            if index == case.right:
                right = logs
        return int(np.argmax(scores)) == case.right, right.astype(np.float64)

    def _forward(self, slot: int, tokens: list[int], start: int) -> np.ndarray:
        for at in range(0, len(tokens), 512):
            span = Span(slot, tokens[at : at + 512], start + at)
            logits = self._engine.forward(self._level, [span])
        return logits


def _bits_of(type_: GgmlType) -> float:
    return 8 * TYPE_SIZES[type_].nbytes / TYPE_SIZES[type_].block
