"""What recovery brings back: perplexity of every level, bare and with a LoRA, by recipe.

A recipe is an estimate of importance, a way to give the layers their widths, and a loss. Every
level is cut out of the model's reordered weights, trained, and measured as a stand-alone
sub-model in transformers, on the answers of held-out examples.

    python benchmarks/recovery.py [HF_DIR --calibration FILE --data FILE.jsonl] [--steps N]
    python benchmarks/recovery.py --train-plain MINUTES [--family qwen2]

Without a folder it takes the built-in model, trains on the generator's conversations, and
measures on those with entities that training never shows. That model was trained at all widths:
its sub-models lost little, and little can be won. `--train-plain` trains a model at full width
only first (`_plain.py`) and takes that.

`pruner` is what LLM-Pruner (arXiv 2305.11627) does for one size, at equal cost: first-order Taylor
importance, the first and the last layer protected, one width elsewhere, a LoRA trained as a
language model. One such model per size shares nothing; its units are ranked once, so that each is
also a prefix of the next.
"""

from __future__ import annotations

import copy
import math
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from _plain import FAMILIES, train_plain
from _pocket import write_conversations, write_folder, write_requests
from _report import Report, parser
from plans import architecture
from pliant.bundle import Level
from pliant.elastify.anchors import choose_anchors, default_anchor_count, losses_without_layers
from pliant.elastify.calibration import read_calibration
from pliant.elastify.importance import DEFAULT_IMPORTANCE, IMPORTANCES, order_by
from pliant.elastify.inputs import WINDOW_TOKENS, WINDOWS
from pliant.elastify.levels import choose_levels
from pliant.elastify.plans import choose_plans
from pliant.elastify.recovery.batches import batches_of
from pliant.elastify.recovery.data import RecoveryData, read_recovery_data
from pliant.elastify.recovery.losses import mean_lm_loss
from pliant.elastify.recovery.options import RecoveryOptions
from pliant.elastify.recovery.recover import recover_levels
from pliant.elastify.reorder import reorder_model
from pliant.elastify.source import SourceConfig, load_model, load_tokenizer, read_config
from pliant.elastify.windows import Windows

CLAIMED = (0.5, 0.8)  # these levels and those between them
GAP_GOAL = 0.5
MIN_GAP = 0.01  # in nats a token: below it there is nothing to win back
RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
CONVERSATIONS = 4000
HELD_OUT = 24  # conversations per app
QUICK_STEPS = 2
QUICK_CONVERSATIONS = 64
QUICK_HELD_OUT = 1
QUICK_RATIOS = (0.5,)


@dataclass(frozen=True)
class Recipe:
    """`plans` is a kind of `choose_plans`, or "protected"; `fitted`: training does not begin at
    zero."""

    name: str
    importance: str
    plans: str
    loss: str
    fitted: bool = True


OURS = Recipe("global, distill", DEFAULT_IMPORTANCE, "global", "distill")
RECIPES = (
    OURS,
    Recipe("global, distill, from zero", DEFAULT_IMPORTANCE, "global", "distill", fitted=False),
    Recipe("global, lm", DEFAULT_IMPORTANCE, "global", "lm"),
    Recipe("uniform, distill", DEFAULT_IMPORTANCE, "uniform", "distill"),
    Recipe("paper", "taylor", "uniform", "lm", fitted=False),
    Recipe("pruner", "taylor", "protected", "lm", fitted=False),
)


@dataclass(frozen=True)
class Material:
    """A model as it came, and the texts; only answers of the held-out examples count."""

    model: Any
    config: SourceConfig
    calibration: tuple[Windows, ...]
    data: RecoveryData

    def reordered(self, importance: str) -> Any:
        order = order_by(IMPORTANCES[importance](self.model, self.config, self.calibration))
        model = copy.deepcopy(self.model)
        reorder_model(model, self.config, order)
        return model

    def levels(self, model: Any, plans: str, ratios: tuple[float, ...]) -> list[Level]:
        """Of a reordered model, those of `ratios`."""
        shape, layers = architecture(self.config), self.config.num_layers
        if plans == "protected":
            found = choose_levels(shape, (0, layers - 1), targets=ratios)
        else:
            losses = losses_without_layers(self.model, self.calibration)
            anchors = choose_anchors(losses, default_anchor_count(layers))
            found = choose_plans(
                model, self.config, shape, self.calibration, anchors, kind=plans, targets=ratios
            ).choice
        return [level for level in found.levels if level.ratio in ratios]


def main() -> None:
    args = options().parse_args()
    if len({args.model is None, args.calibration is None, args.data is None}) > 1:
        sys.exit("a model needs --calibration and --data, and they need a model")
    torch.set_num_threads(args.threads)
    report = Report("recovery", seed=args.seed, quick=args.quick)
    training = RecoveryOptions(
        rank=args.rank,
        steps=QUICK_STEPS if args.quick else args.steps,
        learning_rate=args.rate,
        dtype=args.dtype,
        seed=args.seed,
    )
    ratios = QUICK_RATIOS if args.quick else RATIOS
    ratios = tuple(args.levels) if args.levels else ratios
    with tempfile.TemporaryDirectory() as scratch:
        material = read_material(args, Path(scratch), training)
        measure(material, training, ratios, args.recipes, report)
    claim(report)
    report.finish(args.json)


def options() -> ArgumentParser:
    defaults = RecoveryOptions()
    found = parser("Measure recovery by LoRA at every level, by recipe.")
    found.add_argument("model", type=Path, nargs="?", help="Hugging Face folder")
    found.add_argument("--calibration", type=Path, help="text for importance and plans")
    found.add_argument("--data", type=Path, help="recovery data")
    found.add_argument("--held-out", type=Path, help="what is measured (default: part of the data)")
    found.add_argument("--train-plain", type=float, metavar="MINUTES", help="train a model first")
    found.add_argument("--family", choices=tuple(FAMILIES), default="qwen2")
    found.add_argument("--steps", type=int, default=defaults.steps)
    found.add_argument("--rank", type=int, default=defaults.rank)
    found.add_argument("--rate", type=float, default=defaults.learning_rate)
    found.add_argument("--dtype", choices=("f32", "bf16"), default=defaults.dtype)
    found.add_argument("--levels", type=float, nargs="+", help="only these")
    found.add_argument("--recipes", nargs="+", default=[one.name for one in RECIPES])
    found.add_argument("--threads", type=int, default=2)
    return found


def measure(
    material: Material,
    training: RecoveryOptions,
    ratios: tuple[float, ...],
    wanted: list[str],
    report: Report,
) -> None:
    """One row per recipe and level: perplexity bare and with the adapter, gap closed."""
    batches = batches_of(material.data.held_out, training.batch_tokens)
    full_loss = mean_lm_loss(material.model, batches)
    for recipe in RECIPES:
        if recipe.name not in wanted:
            continue
        started = time.monotonic()
        model = material.reordered(recipe.importance)
        levels = material.levels(model, recipe.plans, ratios)
        trained = recover_levels(
            model, levels, material.data, replace(training, loss=recipe.loss, fitted=recipe.fitted)
        )
        for level, result in zip(levels, trained, strict=True):
            bare, recovered = math.exp(result.bare_loss), math.exp(result.recovered_loss)
            report.row(
                recipe=recipe.name,
                level=level.ratio,
                cost=level.cost,
                gap=result.bare_loss - full_loss,
                bare=bare,
                recovered=recovered,
                gap_closed=(bare - recovered) / (bare - math.exp(full_loss)),
            )
        print(f"{recipe.name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    report.row(recipe="(whole model)", level=1.0, cost=1.0, gap=0.0, bare=math.exp(full_loss))


def claim(report: Report) -> None:
    """Half of the gap closed where there is one, and the recipes against each other."""
    rows = {(row["recipe"], row["level"]): row for row in report.results[:-1]}
    for (recipe, level), row in rows.items():
        if recipe != OURS.name:
            continue
        name = f"level {level:g}"
        if CLAIMED[0] <= level <= CLAIMED[1]:
            if row["gap"] < MIN_GAP:
                report.claim(f"{name}: share of the gap closed", "no gap", row["gap"], True)
            else:
                report.at_least(f"{name}: share of the gap closed", GAP_GOAL, row["gap_closed"])
        for other in RECIPES[1:]:
            theirs = rows.get((other.name, level))
            if theirs is not None and level < 0.9:
                ratio = theirs["recovered"] / row["recovered"]
                report.at_least(f"{name}: perplexity, {other.name} over ours", 1.0, ratio)
        both = rows.get(("paper", level)), rows.get(("pruner", level))
        if both[0] is not None and both[1] is not None:
            ratio = both[1]["recovered"] / both[0]["recovered"]
            report.at_least(f"{name}: perplexity, pruner over paper", 1.0, ratio)


def read_material(args: Namespace, scratch: Path, training: RecoveryOptions) -> Material:
    """Of the folder given; or of a model trained now, or the built-in one, and its generator."""
    if args.model is not None:
        folder, calibration = args.model, args.calibration
        paths = args.data, args.held_out or args.data
    else:
        folder = scratch
        if args.train_plain is None:
            write_folder(folder)
        else:
            train_plain(folder, args.train_plain, args.seed, args.family)
        calibration, _ = write_requests(folder, 1, args.seed)
        count, held_out = (
            (QUICK_CONVERSATIONS, QUICK_HELD_OUT) if args.quick else (CONVERSATIONS, HELD_OUT)
        )
        paths = write_conversations(folder, count, held_out, args.seed)
    tokenizer = load_tokenizer(folder)
    data, measured = (
        read_recovery_data(path, tokenizer, training.max_tokens, prompt_weight)
        for path, prompt_weight in zip(paths, (training.prompt_weight, 0.0), strict=True)
    )
    held_out = measured.held_out
    if paths[0] != paths[1]:
        held_out = measured.training + held_out
    return Material(
        load_model(folder),
        read_config(folder),
        read_calibration(calibration, tokenizer, WINDOWS, WINDOW_TOKENS).batches,
        replace(data, held_out=held_out),
    )


if __name__ == "__main__":
    main()
