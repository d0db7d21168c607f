"""What shortened prompts cost in accuracy, by how the words that stay are chosen.

The built-in model answers held-out requests of the generator (models/pocket), and with --data
real requests, at several prompt ratios. The TLM's score head chooses the words, or chance, a
truncation (head, tail or both ends stay), or the LLM's own self-information (Selective-Context).
All leave the same parts alone: the system message, the question and the markup. Choices are
scored by their mean log-probability at level 1.0.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from _report import Report, parser
from _requests import APPS, Scene, evaluation_scenes, real_tasks
from _scorers import RandomWords, Remembered, SelfInformation, Truncation
from pliant.engine.model import ElasticModel, load
from pliant.tlm.compress import compress, compress_prompt
from pliant.tlm.model import TinyModel
from pliant.tlm.protect import STRUCTURE
from pliant.tlm.scores import Scorer

ROWS = 96
QUICK_ROWS = 6
EVAL_SEED = 0
CLAIMED_RATIOS = (0.3, 0.5, 0.7)
RATIOS = tuple(round(0.1 * step, 1) for step in range(1, 11))
SCORE_HEAD = "score head"
# Points of accuracy over the best baseline; clear at 0.5, at the others not to fall behind.
MARGINS = {0.3: 0.0, 0.5: 3.0, 0.7: 0.0}
LONG_CHARACTERS = 100_000


def scorers(model: ElasticModel, seed: int, stack: ExitStack) -> dict[str, Scorer]:
    """The score head if the bundle has one, and what it has to beat."""
    found: dict[str, Scorer] = {}
    path = model.bundle.tlm_path
    if path is not None:
        tlm = stack.enter_context(TinyModel(path, model=model.bundle.gguf.path))
        found[SCORE_HEAD] = Remembered(tlm)
    return found | {
        "random": RandomWords(seed),
        "truncation, head stays": Truncation("head"),
        "truncation, tail stays": Truncation("tail"),
        "truncation, both ends stay": Truncation("both"),
        "self-information": Remembered(SelfInformation(model)),
    }


def measure(
    model: ElasticModel,
    tasks: Mapping[str, Sequence[Scene]],
    methods: Mapping[str, Scorer],
    ratios: Sequence[float],
    report: Report,
) -> None:
    """One row per method and ratio: accuracy of every task, their mean, the ratio reached."""
    for method, scorer in methods.items():
        for ratio in ratios:
            row: dict[str, Any] = {"method": method, "asked": ratio}
            reached: list[float] = []
            for name, scenes in tasks.items():
                right = [answers_right(model, s, ratio, scorer, reached) for s in scenes]
                row[name] = 100 * mean(right)
            row["mean"] = mean(row[name] for name in tasks)
            row["reached"] = mean(reached)
            report.row(**row)
        print(f"measured {method}", file=sys.stderr)


def answers_right(
    model: ElasticModel, scene: Scene, ratio: float, scorer: Scorer, reached: list[float]
) -> bool:
    """Whether the right choice is the likeliest after the shortened prompt; notes its ratio."""
    short = compress_prompt(scene.prompt(), ratio, model=model, protect=STRUCTURE, scorer=scorer)
    reached.append(short.ratio)
    turn = scene.turns[0]
    return int(np.argmax(model.score(short.prompt, turn.choices))) == turn.answer_index


def claim_margins(report: Report) -> None:
    """The score head against the best of the others, at each ratio that is stated."""
    means = {(row["method"], row["asked"]): row["mean"] for row in report.results}
    others = {method for method, _ in means} - {SCORE_HEAD}
    for ratio, margin in MARGINS.items():
        name = f"score head over the best other at ratio {ratio:g}, points of accuracy"
        if (SCORE_HEAD, ratio) not in means:
            report.claim(name, f">= {margin:g}", "the bundle has no TLM", met=False)
            continue
        best = max(means[other, ratio] for other in others)
        report.at_least(name, margin, means[SCORE_HEAD, ratio] - best)


def claim_speed(model: ElasticModel, scenes: Sequence[Scene], seed: int, report: Report) -> None:
    """Of a very long prompt, everything but the scoring."""
    text = "\n".join(scene.context for scene in scenes)
    text = (text * (1 + LONG_CHARACTERS // len(text)))[:LONG_CHARACTERS]
    scorer = Remembered(RandomWords(seed))
    scorer.scores([text])
    started = time.perf_counter()
    compress(text, 0.5, model=model, protect=STRUCTURE, scorer=scorer)
    seconds = time.perf_counter() - started
    report.at_most("seconds to compress 100,000 characters, scoring aside", 1.0, seconds)


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--bundle", default="pocket")
    options.add_argument("--data", type=Path, help="folder with the real requests")
    options.add_argument("--rows", type=int, help="per task")
    arguments = options.parse_args()
    report = Report("prompt_compression", seed=arguments.seed, quick=arguments.quick)
    count = arguments.rows or (QUICK_ROWS if arguments.quick else ROWS)
    tasks: dict[str, Sequence[Scene]] = {
        app: evaluation_scenes(app, count, EVAL_SEED) for app in APPS
    }
    if arguments.data:
        tasks |= real_tasks(arguments.data, count, EVAL_SEED)
    ratios = CLAIMED_RATIOS if arguments.quick else RATIOS
    with ExitStack() as stack:
        model = stack.enter_context(load(arguments.bundle))
        measure(model, tasks, scorers(model, arguments.seed, stack), ratios, report)
        scenes = [scene for app in APPS for scene in tasks[app]]
        claim_speed(model, scenes, arguments.seed, report)
    claim_margins(report)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
