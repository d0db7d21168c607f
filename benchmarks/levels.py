"""What the built-in model can do at every level: accuracy per task, and perplexity.

Runs the shipped bundle in the engine on held-out requests of the generator (models/pocket), and
with --data on real requests that were never trained on. Choices are scored by their mean
log-probability. --card prints the table of the model card instead.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from _report import Report, parser
from _requests import APPS, EVALUATION_SETS, Scene, evaluation_scenes, real_scenes
from pliant.engine.model import ElasticModel, load

ROWS = 192
QUICK_ROWS = 16
QUICK_LEVELS = (0.3, 0.6, 1.0)
EVAL_SEED = 0
# From one level to the next larger one, accuracy may fall by chance; not by more than this.
GRACE_POINTS = 5.0


def measure(model: ElasticModel, tasks: Mapping[str, Sequence[Scene]], report: Report) -> None:
    """One row per level: accuracy of every task, their mean over the apps, perplexity."""
    levels = [level for level in model.levels if not report.quick or level.ratio in QUICK_LEVELS]
    for level in levels:
        row: dict[str, Any] = {"level": level.ratio, "cost": round(level.cost, 3)}
        for name, scenes in tasks.items():
            row[name] = 100 * mean(is_right(model, scene, level.ratio) for scene in scenes)
        row["apps"] = mean(row[app] for app in APPS)
        scenes = [scene for app in APPS for scene in tasks[app]]
        row["answer_perplexity"] = answer_perplexity(model, scenes, level.ratio)
        row["text_perplexity"] = text_perplexity(model, scenes, level.ratio)
        report.row(**row)
        print(f"measured level {level.ratio:g}", file=sys.stderr)


def is_right(model: ElasticModel, scene: Scene, level: float) -> bool:
    turn = scene.turns[0]
    scores = model.score(scene.prompt(), turn.choices, level=level)
    return int(np.argmax(scores)) == turn.answer_index


def answer_perplexity(model: ElasticModel, scenes: Sequence[Scene], level: float) -> float:
    """Of the right answers' tokens, each answer counting alike."""
    scores = [model.score(s.prompt(), [s.turns[0].answer], level=level)[0] for s in scenes]
    return math.exp(-mean(scores))


def text_perplexity(model: ElasticModel, scenes: Sequence[Scene], level: float) -> float:
    """Of the prompts' tokens: lists and screens, most of them drawn at random."""
    losses: list[float] = []
    for scene in scenes[:: max(1, len(scenes) // 96)]:
        tokens = model.encode_prompt(scene.prompt())
        logits = model.logits(tokens, level=level)[:-1].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        losses += (-logs[np.arange(len(logs)), tokens[1:]]).tolist()
    return math.exp(mean(losses))


def claim(report: Report, tasks: Mapping[str, Sequence[Scene]]) -> None:
    """Accuracy falls gracefully: step by step, from well above chance."""
    apps = [row["apps"] for row in report.results]
    chance = mean(100 / len(s.turns[0].choices) for app in APPS for s in tasks[app])
    worst = max(small - large for small, large in zip(apps, apps[1:], strict=False))
    report.at_most("a smaller level above a larger one, points", GRACE_POINTS, worst)
    report.at_least("accuracy of the full model over chance, points", 20.0, apps[-1] - chance)
    falls = [large - small for small, large in zip(apps, apps[1:], strict=False)]
    report.at_most("largest fall from one level to the next, share of the full fall over chance",
                   0.5 if not report.quick else 1.0, max(falls) / (apps[-1] - chance))  # fmt: skip


def card(report: Report, tasks: Mapping[str, Sequence[Scene]]) -> str:
    """The table of the model card, in markdown, with chance as its last row."""
    names = list(report.results[0])
    lines = ["| " + " | ".join(names) + " |", "| " + " | ".join("---" for _ in names) + " |"]
    for row in report.results:
        lines.append("| " + " | ".join(f"{row[name]:.3g}" for name in names) + " |")
    chances = {n: mean(100 / len(s.turns[0].choices) for s in t) for n, t in tasks.items()}
    cells = [f"{chances[name]:.3g}" if name in chances else "" for name in names[1:]]
    lines.append("| " + " | ".join(["chance", *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--bundle", default="pocket")
    options.add_argument("--data", type=Path, help="folder with the real requests")
    options.add_argument("--rows", type=int, default=ROWS, help="per task")
    options.add_argument("--card", action="store_true", help="print the model card's table")
    arguments = options.parse_args()
    report = Report("levels", seed=EVAL_SEED, quick=arguments.quick)
    count = QUICK_ROWS if arguments.quick else arguments.rows
    tasks: dict[str, Sequence[Scene]] = {
        app: evaluation_scenes(app, count, EVAL_SEED) for app in APPS
    }
    if arguments.data:
        tasks |= {name: real_scenes(arguments.data, name, count) for name in EVALUATION_SETS}
    with load(arguments.bundle) as model:
        measure(model, tasks, report)
    claim(report, tasks)
    if arguments.card:
        print(card(report, tasks))
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(report.document(), indent=2) + "\n")
    else:
        report.finish(arguments.json)


if __name__ == "__main__":
    main()
