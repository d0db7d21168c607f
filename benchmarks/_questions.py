"""Questions with choices, and how often a sub-model in transformers picks the right one."""

from __future__ import annotations

import json
import math
import random
from argparse import Namespace
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from transformers import DynamicCache

from pliant.elastify.calibration import mean_loss, read_calibration
from pliant.elastify.inputs import WINDOW_TOKENS
from pliant.elastify.windows import Windows

QUICK_QUESTIONS = 12


@dataclass(frozen=True)
class Question:
    """Token ids: int64 [prompt] and one [choice] each."""

    prompt: torch.Tensor
    choices: tuple[torch.Tensor, ...]
    answer_index: int

    @property
    def answered(self) -> Windows:
        """Prompt and right choice, of which only the latter counts."""
        answer = self.choices[self.answer_index]
        weights = torch.cat([torch.zeros(len(self.prompt) - 1), torch.ones(len(answer))])
        return Windows(torch.cat([self.prompt, answer])[None], weights[None])


@dataclass(frozen=True)
class Material:
    questions: tuple[Question, ...]
    text: tuple[Windows, ...]


def read_material(args: Namespace, tokenizer: Any, windows: int) -> Material:
    rows = [json.loads(line) for line in args.eval.read_text("utf-8").splitlines()]
    random.Random(args.seed).shuffle(rows)
    count = QUICK_QUESTIONS if args.quick else args.questions
    questions = tuple(_question(row, tokenizer) for row in rows[:count])
    if args.text is not None:
        text = read_calibration(args.text, tokenizer, windows, WINDOW_TOKENS).batches
    else:
        text = tuple(question.answered for question in questions)
    return Material(questions, text)


def scores(model: Any, material: Material) -> dict[str, float]:
    right = mean(is_right(model, question) for question in material.questions)
    return {"perplexity": math.exp(mean_loss(model, material.text)), "accuracy": right}


@torch.no_grad()
def is_right(model: Any, question: Question) -> bool:
    """Whether the right choice has the highest mean log-probability; the prompt runs once."""
    cache = DynamicCache()
    prompt = model(input_ids=question.prompt[None], past_key_values=cache, logits_to_keep=1)
    first = torch.log_softmax(prompt.logits[0, -1], dim=-1)
    cache.batch_repeat_interleave(len(question.choices))
    padded = torch.nn.utils.rnn.pad_sequence(question.choices, batch_first=True)
    logits = model(input_ids=padded, past_key_values=cache).logits
    logs = torch.log_softmax(logits, dim=-1)
    values = []
    for row, choice in zip(logs, question.choices, strict=True):
        later = row[: len(choice) - 1].gather(1, choice[1:, None])
        values.append(float(first[choice[0]] + later.sum()) / len(choice))
    return max(range(len(values)), key=values.__getitem__) == question.answer_index


def _question(row: dict[str, Any], tokenizer: Any) -> Question:
    prompt = tokenizer.apply_chat_template(
        row["messages"], add_generation_prompt=True, tokenize=False
    )
    return Question(
        prompt=_tokens(tokenizer, prompt),
        choices=tuple(_tokens(tokenizer, choice) for choice in row["choices"]),
        answer_index=row["answer_index"],
    )


def _tokens(tokenizer: Any, text: str) -> torch.Tensor:
    return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
