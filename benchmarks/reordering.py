"""Does it matter which units come first? Perplexity and accuracy by order and level.

Takes a Hugging Face Llama-type folder, reorders its units by importance, by magnitude, at
random and not at all, cuts the same plans out of each, and runs the stand-alone sub-models in
transformers, float32. Answers are scored by the mean log-probability of each choice.

    python benchmarks/reordering.py [HF_DIR --calibration FILE --eval FILE.jsonl] [--text FILE]

Without a folder it takes the built-in model and its held-out requests. That model is shipped in
the order of importance, and trained so that quality falls with the width: its natural order is
no stranger to either.

Rows of the evaluation file: `messages` (role, content), `choices`, `answer_index`. Without
--text, perplexity is measured on the prompts with their right answers.
"""

from __future__ import annotations

import copy
import json
import math
import random
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from transformers import DynamicCache

from _pocket import write_folder, write_requests
from _report import Report, parser
from pliant.bundle import Architecture, Level
from pliant.elastify.anchors import choose_anchors, default_anchor_count, losses_without_layers
from pliant.elastify.calibration import Calibration, mean_loss, read_calibration, token_windows
from pliant.elastify.importance import (
    magnitude_scores,
    natural_order,
    order_by,
    random_order,
    taylor_scores,
)
from pliant.elastify.inputs import WINDOW_TOKENS, WINDOWS
from pliant.elastify.levels import choose_levels
from pliant.elastify.reorder import reorder_model
from pliant.elastify.source import SourceConfig, load_model, load_tokenizer, read_config
from pliant.elastify.submodel import slice_model
from pliant.elastify.units import UnitOrder

RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7)
RANDOM_SEEDS = 3
QUICK_RANDOM_SEEDS = 1
QUICK_QUESTIONS = 18
QUICK_WINDOWS = 16


@dataclass(frozen=True)
class Question:
    """Token ids: int64 [prompt] and one [choice] each."""

    prompt: torch.Tensor
    choices: tuple[torch.Tensor, ...]
    answer_index: int

    @property
    def answered(self) -> list[int]:
        return torch.cat([self.prompt, self.choices[self.answer_index]]).tolist()


@dataclass(frozen=True)
class Material:
    questions: tuple[Question, ...]
    text: tuple[torch.Tensor, ...]


def main() -> None:
    options = parser("Compare orders of units at the levels 0.3 to 0.7.")
    options.add_argument("model", type=Path, nargs="?", help="Hugging Face folder")
    options.add_argument("--calibration", type=Path, help="text for the importance")
    options.add_argument("--eval", type=Path, help="JSON lines with choices")
    options.add_argument("--text", type=Path, help="other text, for perplexity")
    options.add_argument("--questions", type=int, default=180, help="how many of the rows")
    options.add_argument("--threads", type=int, default=2)
    args = options.parse_args()
    if (args.model is None) != (args.calibration is None) or (
        (args.model is None) != (args.eval is None)
    ):
        options.error("a model needs --calibration and --eval, and they need a model")
    torch.set_num_threads(args.threads)
    report = Report("reordering", seed=args.seed, quick=args.quick)
    with tempfile.TemporaryDirectory() as scratch:
        if args.model is None:
            args.model = Path(scratch)
            write_folder(args.model)
            args.calibration, args.eval = write_requests(
                args.model, args.questions // 6 + 1, args.seed
            )
        measure(args, report)
    claim(report)
    report.finish(args.json)


def measure(args: Namespace, report: Report) -> None:
    """One row for each order and level."""
    tokenizer, model = load_tokenizer(args.model), load_model(args.model)
    config = read_config(args.model)
    windows = QUICK_WINDOWS if args.quick else WINDOWS
    calibration = read_calibration(args.calibration, tokenizer, windows, WINDOW_TOKENS)
    material = read_material(args, tokenizer, windows)
    levels = pick_levels(model, config, calibration)
    seeds = QUICK_RANDOM_SEEDS if args.quick else RANDOM_SEEDS
    report.row(order="(whole model)", level=1.0, cost=1.0, **scores(model, material))
    for name, order in orders(model, config, calibration, args.seed, seeds):
        reordered = copy.deepcopy(model)
        reorder_model(reordered, config, order)
        for level in levels:
            small = slice_model(reordered, level.plan)
            columns = {"order": name, "level": level.ratio, "cost": level.cost}
            report.row(**columns, **scores(small, material))
        print(f"measured order: {name}", file=sys.stderr)


def claim(report: Report) -> None:
    """Importance against random (mean of its seeds) and magnitude, at each level."""
    rows = sorted(report.results, key=lambda row: row["level"])
    for level, group in groupby(rows, key=lambda row: row["level"]):
        by_order = list(group)
        ours = _mean_of(by_order, "importance")
        for other in ("random", "magnitude"):
            theirs = _mean_of(by_order, other)
            if ours is None or theirs is None:
                continue
            name = f"importance against {other} at level {level:g}"
            ratio = theirs["perplexity"] / ours["perplexity"]
            report.at_least(f"{name}: perplexity ratio", 1.0, ratio)
            points = 100 * (ours["accuracy"] - theirs["accuracy"])
            report.at_least(f"{name}: accuracy, points", 0.0, points)


def orders(
    model: Any, config: SourceConfig, calibration: Calibration, seed: int, num_random: int
) -> Iterator[tuple[str, UnitOrder]]:
    yield "importance", order_by(taylor_scores(model, config, calibration.batches))
    yield "magnitude", order_by(magnitude_scores(model, config))
    yield "natural", natural_order(config)
    for index in range(num_random):
        yield f"random {index}", random_order(config, seed + index)


def pick_levels(model: Any, config: SourceConfig, calibration: Calibration) -> list[Level]:
    """The levels that `pliant elastify` would choose, between 0.3 and 0.7."""
    losses = losses_without_layers(model, calibration.batches)
    anchors = choose_anchors(losses, default_anchor_count(config.num_layers))
    levels = choose_levels(architecture(config), anchors).levels
    return [level for level in levels if RATIOS[0] <= level.ratio <= RATIOS[-1]]


def architecture(config: SourceConfig) -> Architecture:
    """The sizes as the bundle states them (RoPE does not matter for costs)."""
    return Architecture(
        name="llama",
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        ff=config.ff,
        vocab_size=config.vocab_size,
        context_length=config.context_length,
        rms_eps=config.rms_eps,
        rope_base=config.rope_base,
        rope_dim=config.head_dim,
        rope_scaling_type="none",
        rope_scaling_factor=1.0,
        rope_original_context=config.context_length,
        tied_embeddings=config.tied_embeddings,
        has_rope_factors=False,
    )


def read_material(args: Namespace, tokenizer: Any, windows: int) -> Material:
    rows = [json.loads(line) for line in args.eval.read_text("utf-8").splitlines()]
    random.Random(args.seed).shuffle(rows)
    count = QUICK_QUESTIONS if args.quick else args.questions
    questions = tuple(_question(row, tokenizer) for row in rows[:count])
    if args.text is not None:
        text = read_calibration(args.text, tokenizer, windows, WINDOW_TOKENS).batches
    else:
        tokens = [token for question in questions for token in question.answered]
        text = token_windows(tokens, windows, WINDOW_TOKENS)
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


def _mean_of(rows: Sequence[dict[str, Any]], order: str) -> dict[str, float] | None:
    found = [row for row in rows if row["order"].partition(" ")[0] == order]
    if not found:
        return None
    return {name: mean(row[name] for row in found) for name in ("perplexity", "accuracy")}


if __name__ == "__main__":
    main()
