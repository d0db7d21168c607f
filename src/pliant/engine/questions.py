"""Multiple-choice questions from a file, and how a model is asked them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pliant.engine.chat import Message
from pliant.engine.model import ElasticModel
from pliant.errors import LabelError, TemplateError
from pliant.files import require_file

MAX_FILE_BYTES = 256 << 20
DEFAULT_TASK = "questions"

TextPrompt = str | Sequence[Message]


@dataclass(frozen=True)
class Question:
    """Chat messages, and choices of which the one at `answer_index` is right."""

    task: str
    messages: tuple[Mapping[str, str], ...]
    choices: tuple[str, ...]
    answer_index: int


def read_questions(path: Path) -> tuple[Question, ...]:
    """All questions of a JSON lines file.

    A line has `question` (and, if there is one, `context`) or chat `messages`, `choices` and
    `answer_index`, and may name its `task` (or `app`). Raises LabelError, which names the line.
    """
    try:
        require_file(path)
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        lines = data.decode("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise LabelError(f"tasks file {path} cannot be read: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise LabelError(f"tasks file {path} has more than {MAX_FILE_BYTES >> 20} MiB")
    questions = tuple(
        _question(f"tasks file {path}, line {number}", line)
        for number, line in enumerate(lines, 1)
        if line.strip()
    )
    if not questions:
        raise LabelError(f"tasks file {path} has no questions")
    return questions


def as_asked(model: ElasticModel, question: Question) -> tuple[TextPrompt, tuple[str, ...]]:
    """The prompt and the choices in the form the model takes: messages, or a text for a model
    without chat template, or with one that refuses these roles."""
    prompt: list[Message] = list(question.messages)
    try:
        model.encode_prompt(prompt)
    except TemplateError:
        asked = "\n".join(message["content"] for message in question.messages)
        return f"{asked}\nAnswer:", tuple(f" {choice}" for choice in question.choices)
    return prompt, question.choices


def _question(where: str, line: str) -> Question:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise LabelError(f"{where}: not an object")
    choices: Any = row.get("choices")
    answer = row.get("answer_index")
    if not _are_texts(choices) or len(choices) < 2:
        raise LabelError(f"{where}: `choices` must be a list of at least two texts")
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise LabelError(f"{where}: `answer_index` must be 0 to {len(choices) - 1}")
    task = row.get("task", row.get("app", DEFAULT_TASK))
    if not isinstance(task, str) or not task:
        raise LabelError(f"{where}: `task` must be a text")
    return Question(task, _messages(where, row), tuple(choices), answer)


def _messages(where: str, row: dict[str, Any]) -> tuple[Mapping[str, str], ...]:
    if "messages" not in row:
        parts = [row[name] for name in ("context", "question") if row.get(name) is not None]
        if not _are_texts(parts) or row.get("question") is None:
            raise LabelError(f"{where}: needs `messages`, or a `question` that is a text")
        return ({"role": "user", "content": "\n".join(parts)},)
    messages = row["messages"]
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise LabelError(f"{where}: `messages` must be objects with the texts role and content")
    return tuple({"role": one["role"], "content": one["content"]} for one in messages)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and _are_texts([value.get("role"), value.get("content")])


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(t, str) and t for t in value)
