"""Questions for the report, and how many of them a level answers right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pliant.engine.model import ElasticModel
from pliant.engine.questions import Question, as_asked, read_questions
from pliant.errors import RequestError

MAX_QUESTIONS = 200


@dataclass(frozen=True)
class TaskScore:
    """How many questions of a task were answered, how many of them right, and how many did not
    fit the context."""

    answered: int
    right: int
    skipped: int


def read_tasks(path: Path) -> tuple[Question, ...]:
    """At most MAX_QUESTIONS of a file that `read_questions` reads, evenly spread over it."""
    questions = read_questions(path)
    count = min(MAX_QUESTIONS, len(questions))
    chosen = np.linspace(0, len(questions) - 1, count).astype(int)
    return tuple(questions[index] for index in chosen)


def score_tasks(
    model: ElasticModel, questions: Sequence[Question], level: float
) -> dict[str, TaskScore]:
    """By task, in the order of the file."""
    answered: Counter[str] = Counter()
    right: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for question in questions:
        try:
            picked = _pick(model, question, level)
        except RequestError:
            skipped[question.task] += 1
            continue
        answered[question.task] += 1
        right[question.task] += picked == question.answer_index
    tasks = dict.fromkeys(question.task for question in questions)
    return {task: TaskScore(answered[task], right[task], skipped[task]) for task in tasks}


def _pick(model: ElasticModel, question: Question, level: float) -> int:
    """The choice with the highest mean log-probability (ElastiLM, arXiv 2409.09071)."""
    prompt, choices = as_asked(model, question)
    return int(np.argmax(model.score(prompt, choices, level=level)))
