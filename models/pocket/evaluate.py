"""Accuracy per task and perplexity of the built-in model, at full and at prefix widths.

Prints a table, then one line of JSON.  With ``--data`` also measures the real requests
(never trained on) and held-out prose.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

from pocket import sources
from pocket.export import load_hf
from pocket.generate import evaluation_scenes
from pocket.model import ElasticLlama, uniform_widths
from pocket.real_tasks import EVALUATION_SETS, real_scenes
from pocket.scene import APPS, Scene
from pocket.scoring import choose_answer, perplexity
from pocket.tokens import load_tokenizer

PROSE_WINDOW = 256
NUM_PROSE_WINDOWS = 64


def prose_windows(data: Path, tokenizer: Tokenizer) -> list[list[int]]:
    """Windows of the validation books, spread evenly over them."""
    ids = tokenizer.encode("\n\n".join(sources.validation_prose(data))).ids
    stride = len(ids) // NUM_PROSE_WINDOWS
    return [ids[i * stride : i * stride + PROSE_WINDOW] for i in range(NUM_PROSE_WINDOWS)]


def accuracy(
    model: ElasticLlama, tokenizer: Tokenizer, scenes: Sequence[Scene], ratio: float
) -> float:
    """Share of scenes whose right answer is the likeliest choice."""
    widths = uniform_widths(model.config, ratio)
    right = sum(
        choose_answer(model, tokenizer, s, widths) == s.turns[0].answer_index for s in scenes
    )
    return right / len(scenes)


def task_scenes(data: Path | None, count: int, tasks: Sequence[str]) -> dict[str, list[Scene]]:
    """What is to be scored, by task; real sets only with ``data``."""
    scenes = {app: evaluation_scenes(app, count) for app in APPS if app in tasks}
    if data is not None:
        names = [name for name in EVALUATION_SETS if name in tasks]
        scenes.update({name: real_scenes(data, name, count) for name in names})
    return scenes


def chance(scenes: Sequence[Scene]) -> float:
    return sum(1 / len(s.turns[0].choices) for s in scenes) / len(scenes)


def measure(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """``{task: {ratio: accuracy}}``, with chance, and ``prose`` as perplexity."""
    model, tokenizer = load_hf(args.hf).eval(), load_tokenizer(args.hf)
    results: dict[str, dict[str, float]] = {}
    for task, scenes in task_scenes(args.data, args.count, args.tasks).items():
        row = {str(r): round(accuracy(model, tokenizer, scenes, r), 4) for r in args.ratios}
        results[task] = {"rows": len(scenes), "chance": round(chance(scenes), 4), **row}
        print(task.ljust(20), *(f"{k}={v:<8}" for k, v in results[task].items()), flush=True)
    if args.data is not None:
        windows = prose_windows(args.data, tokenizer)
        results["prose"] = {
            str(r): round(perplexity(model, windows, uniform_widths(model.config, r)), 2)
            for r in args.ratios
        }
        print("prose perplexity".ljust(20), results["prose"])
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hf", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--data", type=Path, help="folder of the converted sets")
    parser.add_argument("--count", type=int, default=256, help="rows per generated task")
    parser.add_argument("--ratios", type=float, nargs="+", default=[1.0])
    tasks = (*APPS, *EVALUATION_SETS)
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=tasks)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps(measure(args)))


if __name__ == "__main__":
    main()
