"""Score labels where nobody has compressed anything: how much the LLM's answer needs each word.

A word's effect is what the right choice's log-probability (among the choices) loses when the
word is left out, as compression would leave it out. Leaving out is what the score head is for, and
it needs nothing but forward passes, which the prompts' common beginnings make short: a gradient
would be one pass, but says what an embedding's small change does, not a word's absence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pliant.engine.model import ElasticModel
from pliant.engine.questions import Question, TextPrompt, as_asked
from pliant.tlm.labels.rows import ScoreRow
from pliant.tlm.labels.scoring import Job, Scores, all_slots, encode_choices, score_jobs
from pliant.tlm.protect import STRUCTURE
from pliant.tlm.segments import prompt_text, segment_units, segments_of, with_texts
from pliant.tlm.selection import kept_ranges
from pliant.tlm.units import Unit

MAX_GROUPS = 160
"""Of a longer prompt, neighbouring words are left out together."""


def saliency_rows(model: ElasticModel, questions: Sequence[Question]) -> list[ScoreRow]:
    """One row for each question, of which there are at most as many as the engine has slots.

    All must fit the context. Spans are the words that compression may drop (protected structure,
    such as the question itself, has none). Uses every slot.
    """
    prompts, jobs = [], []
    for question in questions:
        prompt, choices = as_asked(model, question)
        words = PromptWords(prompt, model.tokenizer.special_texts)
        variants = [prompt, *(words.without(group) for group in reversed(words.groups))]
        tokens = tuple(tuple(model.encode_prompt(variant)) for variant in variants)
        jobs.append(Job(tokens, encode_choices(model, prompt, choices)))
        prompts.append(words)
    with all_slots(model) as slots:
        scores = score_jobs(model.engine, model.levels[-1], jobs, slots)
    return [
        words.row(keep_values(_effects(found, question.answer_index)))
        for words, question, found in zip(prompts, questions, scores, strict=True)
    ]


class PromptWords:
    """The words of a prompt that may go, in groups that go together."""

    def __init__(self, prompt: TextPrompt, markup: Sequence[str]) -> None:
        """`markup`: names of the model's control tokens."""
        self._prompt = prompt
        self._text = prompt_text(prompt)
        self._segments = segments_of(prompt)
        self._units = [segment_units(self._text, s, STRUCTURE, markup) for s in self._segments]
        free = [unit for units in self._units for unit in units if not unit.is_protected]
        count = min(len(free), MAX_GROUPS)
        edges = np.linspace(0, len(free), count + 1).astype(int)
        self.groups = [free[first:last] for first, last in zip(edges, edges[1:], strict=False)]

    def without(self, group: Sequence[Unit]) -> TextPrompt:
        """The prompt without these words, as compression writes it."""
        texts = []
        for segment, units in zip(self._segments, self._units, strict=True):
            stays = [unit not in group for unit in units]
            kept = kept_ranges(self._text, units, stays, segment.start, segment.end)
            texts.append("".join(self._text[start:end] for start, end in kept))
        return with_texts(self._prompt, texts)

    def row(self, keep: Sequence[float]) -> ScoreRow:
        """`keep`: one value for each group."""
        spans = [
            (unit.start, unit.end, round(value, 4))
            for group, value in zip(self.groups, keep, strict=True)
            for unit in group
        ]
        return ScoreRow(self._text, tuple(spans))


def keep_values(effects: NDArray[np.float64]) -> list[float]:
    """Effects as values from 0 to 1, by the scale of the text they are from.

    0 for a word that does not help, 1/2 for one that helps as much as words that help do on
    average. Only the order within a text matters to compression; the curve keeps a few decisive
    words from drowning the others.
    """
    helpful = np.maximum(effects, 0.0)
    scale = helpful[helpful > 0].mean() if (helpful > 0).any() else 1.0
    return [float(value) for value in helpful / (helpful + scale)]


def _effects(scores: Scores, answer_index: int) -> NDArray[np.float64]:
    """What leaving out each group costs; `scores` [whole prompt, then last to first group]."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    logs = shifted[:, answer_index] - np.log(np.exp(shifted).sum(axis=1))
    effects: NDArray[np.float64] = (logs[0] - logs[1:])[::-1]
    return effects
