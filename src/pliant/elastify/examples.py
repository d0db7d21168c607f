"""Documents as token ids, with the weight that each token has in a loss.

A row of a JSON lines file is a conversation (`messages` of `role` and `content`), a `prompt` and
its `answer`, or a `text`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROW_KINDS = "`messages`, `prompt` and `answer`, or `text`"


@dataclass(frozen=True, eq=False)
class Example:
    """`tokens` int64 [n]; `weights` float32 [n], of predicting each token: 0 for the first."""

    tokens: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]

    @staticmethod
    def text(tokens: Sequence[int]) -> Example:
        """All of them count the same."""
        return Example(np.array(tokens, np.int64), np.ones(len(tokens), np.float32))


@dataclass(frozen=True)
class _Piece:
    """Consecutive text of one row: tokenized by itself, as a prompt is before its answer.

    `is_start`: of a plain text, before which the model expects its token for that, if it has one;
    chat templates write it themselves.
    """

    text: str
    is_answer: bool
    is_start: bool = False


def read_examples(
    path: Path, content: str, tokenizer: Any, max_tokens: int | None, prompt_weight: float
) -> Iterator[Example]:
    """The documents of a `.jsonl` file, or of any other text, one `text` per paragraph.

    Examples keep their last `max_tokens` tokens; a token of a prompt counts `prompt_weight`, one
    of an answer or a text 1. Those in which nothing counts are left out. Raises ValueError naming
    the line that is not understood.
    """
    reader = _Reader(tokenizer, max_tokens, prompt_weight)
    for number, row in _rows(path, content):
        try:
            example = reader.example(row)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if example.weights.any():
            yield example


def _rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Line number and row; raises ValueError for a line that is not JSON."""
    if path.suffix != ".jsonl":
        yield from ((0, {"text": part}) for part in text.split("\n\n") if part.strip())
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number}: not valid JSON: {error}") from error


@dataclass(frozen=True)
class _Reader:
    tokenizer: Any
    max_tokens: int | None
    prompt_weight: float

    def example(self, row: Any) -> Example:
        """Raises ValueError saying what is wrong with the row."""
        tokens: list[int] = []
        weights: list[float] = []
        for piece in self.pieces(row):
            ids = self.encode(piece)
            tokens += ids
            weights += [1.0 if piece.is_answer else self.prompt_weight] * len(ids)
        kept = slice(None if self.max_tokens is None else -self.max_tokens, None)
        example = Example(np.array(tokens[kept], np.int64), np.array(weights[kept], np.float32))
        example.weights[:1] = 0.0
        return example

    def encode(self, piece: _Piece) -> list[int]:
        ids = self.tokenizer(piece.text, add_special_tokens=False, verbose=False)["input_ids"]
        if not piece.is_start:
            return list(ids)
        special = self.tokenizer("", add_special_tokens=True, verbose=False)["input_ids"]
        return [*(token for token in special[:1] if token == self.tokenizer.bos_token_id), *ids]

    def pieces(self, row: Any) -> list[_Piece]:
        if not isinstance(row, dict):
            raise ValueError(f"a row is an object with {ROW_KINDS}")
        if "messages" in row:
            return self.conversation(_messages(row["messages"]))
        if "prompt" in row and "answer" in row:
            prompt, answer = _text(row, "prompt"), _text(row, "answer")
            if self.tokenizer.chat_template:
                return self.conversation(
                    [
                        {"role": "user", "content": prompt},
                        {"role": "assistant", "content": answer},
                    ]
                )
            return [
                _Piece(prompt, False, is_start=True),
                _Piece(answer + (self.tokenizer.eos_token or ""), True),
            ]
        if "text" in row:
            return [_Piece(_text(row, "text"), True, is_start=True)]
        raise ValueError(f"a row has {ROW_KINDS}")

    def conversation(self, messages: list[dict[str, str]]) -> list[_Piece]:
        """Prompts and answers in turn, as the model's own chat template writes them.

        An earlier answer that the template writes differently once more turns follow (some drop
        what was thought) counts as a part of the prompt.
        """
        whole = self.render(messages, add_generation_prompt=False)
        pieces: list[_Piece] = []
        done = 0
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self.render(messages[:index], add_generation_prompt=True)
            answered = self.render(messages[: index + 1], add_generation_prompt=False)
            if done <= len(prompt) and answered.startswith(prompt) and whole.startswith(answered):
                pieces.append(_Piece(whole[done : len(prompt)], False))
                pieces.append(_Piece(whole[len(prompt) : len(answered)], True))
                done = len(answered)
        if not pieces:
            raise ValueError("the messages hold no answer of the assistant that can be told apart")
        return pieces

    def render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool) -> str:
        if not self.tokenizer.chat_template:
            raise ValueError("the model has no chat template: give `prompt` and `answer` instead")
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, add_generation_prompt=add_generation_prompt, tokenize=False
                )
            )
        except Exception as error:  # templates raise their own errors, of any class
            raise ValueError(f"the chat template refuses the messages: {error}") from error


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise ValueError("`messages` is a list of objects with `role` and `content`")
    return [{"role": _text(one, "role"), "content": _text(one, "content")} for one in value]


def _text(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise ValueError(f"`{key}` is not text")
    return value
