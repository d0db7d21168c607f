"""Decision labels: what every pair of level and prompt ratio makes of each question.

Self-induced labelling (ElastiLM, arXiv 2409.09071, section 3.3.2): the elasticised LLM itself
answers each calibration question at every level with its prompt in every length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pliant.engine.model import ElasticModel
from pliant.engine.questions import Question, TextPrompt, as_asked
from pliant.tlm.compress import prompt_text
from pliant.tlm.labels.rows import DecisionRow
from pliant.tlm.labels.scoring import Job, Scores, all_slots, encode_choices, score_jobs

PROMPT_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

# For a prompt, what makes it as long as a share of its tokens.
Shorten = Callable[[TextPrompt], Callable[[float], TextPrompt]]


def decision_rows(
    model: ElasticModel,
    questions: Sequence[Question],
    shorten: Shorten,
    prompt_ratios: Sequence[float] = PROMPT_RATIOS,
) -> list[DecisionRow]:
    """One row for each question, of which there are at most as many as the engine has slots.

    All must fit the context. `shorten(prompt)(ratio)` makes the shorter prompts; the whole one is
    asked as it is. Uses every slot.
    """
    asked = [as_asked(model, question) for question in questions]
    jobs = [
        Job(
            _prompts(model, prompt, shorten, prompt_ratios),
            encode_choices(model, prompt, choices),
        )
        for prompt, choices in asked
    ]
    with all_slots(model) as slots:
        by_level = [score_jobs(model.engine, level, jobs, slots) for level in model.levels]
    return [
        _row(model, prompt_text(prompt), prompt_ratios, question.answer_index, scores)
        for question, (prompt, _), *scores in zip(questions, asked, *by_level, strict=True)
    ]


def _prompts(
    model: ElasticModel, prompt: TextPrompt, shorten: Shorten, prompt_ratios: Sequence[float]
) -> tuple[tuple[int, ...], ...]:
    """From long to short: each begins like the one before."""
    at = shorten(prompt)
    prompts = (prompt if ratio == 1 else at(ratio) for ratio in reversed(prompt_ratios))
    return tuple(tuple(model.encode_prompt(each)) for each in prompts)


def _row(
    model: ElasticModel,
    text: str,
    prompt_ratios: Sequence[float],
    answer_index: int,
    scores: Sequence[Scores],
) -> DecisionRow:
    """`scores`: [prompt ratios from long to short, choices] for each level."""
    table = np.stack(scores)[:, ::-1]
    shares = np.exp(table - table.max(axis=-1, keepdims=True))
    probability = (shares / shares.sum(axis=-1, keepdims=True))[..., answer_index]
    right = table.argmax(axis=-1) == answer_index
    return DecisionRow(
        text=text,
        levels=tuple(level.ratio for level in model.levels),
        prompt_ratios=tuple(prompt_ratios),
        right=tuple(tuple(map(int, row)) for row in right),
        probability=tuple(tuple(round(float(p), 6) for p in row) for row in probability),
    )
