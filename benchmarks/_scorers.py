"""Other ways to say which words of a prompt stay: what a score head has to beat."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np

from pliant.engine.model import ElasticModel
from pliant.tlm.offsets import readable, token_ranges
from pliant.tlm.scores import Scorer, TokenScore
from pliant.tlm.words import word_ranges


class RandomWords:
    """Every word as worthy as chance has it; the same text always gets the same scores."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def scores(self, texts: Sequence[str]) -> list[list[TokenScore]]:
        return [self._scores(text) for text in texts]

    def _scores(self, text: str) -> list[TokenScore]:
        rng = random.Random(f"{self.seed} {readable(text)}")
        return [TokenScore(start, end, rng.random()) for start, end in word_ranges(text)]


class Truncation:
    """Keeps the text's `head`, its `tail`, or `both` ends."""

    def __init__(self, keeps: str) -> None:
        self._worth = {
            "head": lambda x: 1 - x,
            "tail": lambda x: x,
            "both": lambda x: 2 * abs(x - 0.5),
        }[keeps]

    def scores(self, texts: Sequence[str]) -> list[list[TokenScore]]:
        return [
            [
                TokenScore(start, end, self._worth((start + end) / (2 * len(text))))
                for start, end in word_ranges(text)
            ]
            for text in texts
        ]


class SelfInformation:
    """A token is worth its -log p under the LLM, as in Selective-Context (arXiv 2310.06201).

    Texts longer than the context are read in windows that overlap by half. The first token has
    no probability and so no score.
    """

    def __init__(self, model: ElasticModel) -> None:
        self._model = model

    def scores(self, texts: Sequence[str]) -> list[list[TokenScore]]:
        return [self._scores(readable(text)) for text in texts]

    def _scores(self, text: str) -> list[TokenScore]:
        tokens = self._model.tokenizer.encode(text, add_bos=False)
        ranges = token_ranges(self._model.tokenizer, text)
        losses = np.full(len(tokens), math.nan)
        window = self._model.engine.context_length
        for start in range(0, max(1, len(tokens) - window // 2), window // 2):
            part = tokens[start : start + window]
            if len(part) > 1:
                # In the overlap the window before knows more of what precedes a token.
                fresh = window // 2 if start else 1
                losses[start + fresh : start + len(part)] = self._losses(part)[fresh - 1 :]
        return [
            TokenScore(a, b, loss) for (a, b), loss in zip(ranges, losses.tolist(), strict=True)
        ]

    def _losses(self, tokens: Sequence[int]) -> np.ndarray:
        """-log p of every token but the first, float64 [len(tokens) - 1]."""
        logits = self._model.logits(tokens)[:-1].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -logs[np.arange(len(logs)), tokens[1:]]


class Remembered:
    """A scorer that is asked once for each text."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._known: dict[str, list[TokenScore]] = {}

    def scores(self, texts: Sequence[str]) -> list[list[TokenScore]]:
        for text in texts:
            if text not in self._known:
                [self._known[text]] = self._scorer.scores([text])
        return [self._known[text] for text in texts]
