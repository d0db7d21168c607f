"""Choosing by log-probability: which of a row's choices the model finds likeliest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .chat import END, render
from .model import ElasticLlama, Widths
from .scene import Scene

MASKED = -1e9


@dataclass(frozen=True)
class Packed:
    """One prompt and all its choices in one sequence; choices do not see each other."""

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    spans: tuple[tuple[int, int], ...]
    prompt_length: int


def pack(prompt: Sequence[int], choices: Sequence[Sequence[int]]) -> Packed:
    """Lays the choices behind the prompt, every one at the positions right after it."""
    tokens, positions = list(prompt), list(range(len(prompt)))
    spans = []
    for choice in choices:
        spans.append((len(tokens), len(tokens) + len(choice)))
        tokens += choice
        positions += range(len(prompt), len(prompt) + len(choice))
    mask = torch.full((len(tokens), len(tokens)), MASKED).triu_(1)
    for start, end in spans:
        mask[start:end, len(prompt) : start] = MASKED
    return Packed(torch.tensor([tokens]), torch.tensor(positions), mask, tuple(spans), len(prompt))


@torch.inference_mode()
def choice_scores(model: ElasticLlama, packed: Packed, widths: Widths | None = None) -> list[float]:
    """Mean log-probability of each choice's tokens, its end included."""
    logits = model(packed.tokens, widths, packed.positions, packed.mask)[0]
    logs = torch.log_softmax(logits.float(), dim=-1)
    scores = []
    for start, end in packed.spans:
        before = [packed.prompt_length - 1, *range(start, end - 1)]
        scores.append(float(logs[before, packed.tokens[0, start:end]].mean()))
    return scores


def choose_answer(
    model: ElasticLlama, tokenizer: Tokenizer, scene: Scene, widths: Widths | None = None
) -> int:
    """Index of the likeliest choice of the scene's first turn."""
    prompt = tokenizer.encode(render(scene.prompt(), ask=True)).ids
    choices = [tokenizer.encode(c + END).ids for c in scene.turns[0].choices]
    scores = choice_scores(model, pack(prompt, choices), widths)
    return max(range(len(scores)), key=scores.__getitem__)


@torch.inference_mode()
def perplexity(
    model: ElasticLlama, windows: Sequence[Sequence[int]], widths: Widths | None = None
) -> float:
    """Of token windows that all have one length."""
    total = 0.0
    count = 0
    for window in windows:
        tokens = torch.tensor([window])
        logits = model(tokens[:, :-1], widths).float()
        total += float(torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:], reduction="sum"))
        count += tokens.shape[1] - 1
    return math.exp(total / count)
