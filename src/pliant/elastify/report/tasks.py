"""Multiple-choice questions from a file, and how many of them a level answers right."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pliant.engine.model import ElasticModel
from pliant.errors import ElastifyError, RequestError, TemplateError

MAX_QUESTIONS = 200
MAX_FILE_BYTES = 256 << 20
DEFAULT_TASK = "questions"


@dataclass(frozen=True)
class Question:
    """Chat messages, and choices of which the one at `answer_index` is right."""

    task: str
    messages: tuple[Mapping[str, str], ...]
    choices: tuple[str, ...]
    answer_index: int


@dataclass(frozen=True)
class TaskScore:
    """How many questions of a task were answered, how many of them right, and how many did not
    fit the context."""

    answered: int
    right: int
    skipped: int


def read_tasks(path: Path) -> tuple[Question, ...]:
    """At most MAX_QUESTIONS of a JSON lines file, evenly spread over it.

    A line has `question` (and, if there is one, `context`) or chat `messages`, `choices` and
    `answer_index`, and may name its `task` (or `app`). Raises ElastifyError, which names the line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        lines = data.decode("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise ElastifyError(f"tasks file {path} cannot be read: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ElastifyError(f"tasks file {path} has more than {MAX_FILE_BYTES >> 20} MiB")
    questions = [
        _question(f"tasks file {path}, line {number}", line)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not questions:
        raise ElastifyError(f"tasks file {path} has no questions")
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
    prompt: Any = list(question.messages)
    choices = list(question.choices)
    try:
        model.encode_prompt(prompt)
    except TemplateError:
        # No template, or one that refuses these roles: as base models are asked.
        asked = "\n".join(message["content"] for message in question.messages)
        prompt, choices = f"{asked}\nAnswer:", [f" {choice}" for choice in choices]
    return int(np.argmax(model.score(prompt, choices, level=level)))


def _question(where: str, line: str) -> Question:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ElastifyError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise ElastifyError(f"{where}: not an object")
    choices: Any = row.get("choices")
    answer = row.get("answer_index")
    if not _are_texts(choices) or len(choices) < 2:
        raise ElastifyError(f"{where}: `choices` must be a list of at least two texts")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise ElastifyError(f"{where}: `answer_index` must be 0 to {len(choices) - 1}")
    task = row.get("task", row.get("app", DEFAULT_TASK))
    if not isinstance(task, str) or not task:
        raise ElastifyError(f"{where}: `task` must be a text")
    return Question(task, _messages(where, row), tuple(choices), answer)


def _messages(where: str, row: dict[str, Any]) -> tuple[Mapping[str, str], ...]:
    if "messages" not in row:
        parts = [row[name] for name in ("context", "question") if row.get(name) is not None]
        if not _are_texts(parts) or row.get("question") is None:
            raise ElastifyError(f"{where}: needs `messages`, or a `question` that is a text")
        return ({"role": "user", "content": "\n".join(parts)},)
    messages = row["messages"]
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise ElastifyError(f"{where}: `messages` must be objects with the texts role and content")
    return tuple({"role": one["role"], "content": one["content"]} for one in messages)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and _are_texts([value.get("role"), value.get("content")])


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(t, str) and t for t in value)
