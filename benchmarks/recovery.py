"""What recovery brings back: perplexity of every level, bare and with a LoRA, by loss.

Cuts every level out of a model's reordered weights, trains the adapters, and measures the
stand-alone sub-models in transformers, on the answers of held-out examples.

    python benchmarks/recovery.py [HF_DIR --calibration FILE --data FILE.jsonl] [--steps N]

Without a folder it takes the built-in model, whose weights are shipped in the order of importance,
trains on the generator's conversations, and measures on those with entities that training never
shows. That model was trained at all widths: its sub-models lost little, and little can be won.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from _pocket import write_conversations, write_folder
from _report import Report, parser
from pliant.bundle import Level, open_bundle
from pliant.elastify.anchors import choose_anchors, default_anchor_count, losses_without_layers
from pliant.elastify.calibration import read_calibration
from pliant.elastify.importance import order_by, taylor_scores
from pliant.elastify.inputs import WINDOW_TOKENS, WINDOWS
from pliant.elastify.levels import choose_levels
from pliant.elastify.recovery.batches import batches_of
from pliant.elastify.recovery.data import RecoveryData, read_recovery_data
from pliant.elastify.recovery.losses import mean_lm_loss
from pliant.elastify.recovery.options import RecoveryOptions
from pliant.elastify.recovery.recover import recover_levels
from pliant.elastify.reorder import reorder_model
from pliant.elastify.source import load_model, load_tokenizer, read_config
from reordering import architecture

LOSSES = ("lm", "distill")
CLAIMED = (0.5, 0.8)  # these levels and those between them
GAP_GOAL = 0.5
MIN_GAP = 0.01  # in nats a token: below it there is nothing to win back
CONVERSATIONS = 4000
HELD_OUT = 24  # conversations per app
QUICK_STEPS = 2
QUICK_CONVERSATIONS = 64
QUICK_HELD_OUT = 1
QUICK_LEVELS = (0.5,)


@dataclass(frozen=True)
class Material:
    """A reordered model, its levels below the full one, and the data; only answers of the
    held-out examples count."""

    model: Any
    levels: tuple[Level, ...]
    data: RecoveryData


def main() -> None:
    defaults = RecoveryOptions()
    options = parser("Measure recovery by LoRA at every level, by loss.")
    options.add_argument("model", type=Path, nargs="?", help="Hugging Face folder")
    options.add_argument("--calibration", type=Path, help="text for the importance")
    options.add_argument("--data", type=Path, help="recovery data; a part of it is held out")
    options.add_argument("--steps", type=int, default=defaults.steps)
    options.add_argument("--rank", type=int, default=defaults.rank)
    options.add_argument("--rate", type=float, default=defaults.learning_rate)
    options.add_argument("--dtype", choices=("f32", "bf16"), default=defaults.dtype)
    options.add_argument("--levels", type=float, nargs="+", help="only these")
    options.add_argument("--threads", type=int, default=2)
    args = options.parse_args()
    if len({args.model is None, args.calibration is None, args.data is None}) > 1:
        options.error("a model needs --calibration and --data, and they need a model")
    torch.set_num_threads(args.threads)
    report = Report("recovery", seed=args.seed, quick=args.quick)
    training = RecoveryOptions(
        rank=args.rank,
        steps=QUICK_STEPS if args.quick else args.steps,
        learning_rate=args.rate,
        dtype=args.dtype,
        seed=args.seed,
    )
    with tempfile.TemporaryDirectory() as scratch:
        material = read_pocket(args, Path(scratch)) if args.model is None else read_model(args)
        measure(material, training, chosen_ratios(args), report)
    claim(report)
    report.finish(args.json)


def chosen_ratios(args: Namespace) -> tuple[float, ...] | None:
    if args.levels is not None:
        return tuple(args.levels)
    return QUICK_LEVELS if args.quick else None


def measure(
    material: Material, options: RecoveryOptions, ratios: tuple[float, ...] | None, report: Report
) -> None:
    """One row per level: perplexity bare and with the adapter of each loss, gap closed."""
    levels = [one for one in material.levels if ratios is None or one.ratio in ratios]
    rows: list[dict[str, Any]] = [{"level": one.ratio, "cost": one.cost} for one in levels]
    batches = batches_of(material.data.held_out, options.batch_tokens)
    full_loss = mean_lm_loss(material.model, batches)
    for loss in LOSSES:
        started = time.perf_counter()
        recovered = recover_levels(
            material.model,
            levels,
            material.data,
            replace(options, loss=loss),
        )
        print(f"{loss}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
        for row, result in zip(rows, recovered, strict=True):
            row["gap"] = result.bare_loss - full_loss
            row["bare"] = math.exp(result.bare_loss)
            row[loss] = math.exp(result.recovered_loss)
            row[f"{loss}_gap_closed"] = result.gap_closed(full_loss)
    for row in rows:
        report.row(**row)
    report.row(level=1.0, cost=1.0, gap=0.0, bare=math.exp(full_loss))


def claim(report: Report) -> None:
    """Half of the gap closed where there is one; distillation against language modelling."""
    for row in report.results[:-1]:
        name = f"level {row['level']:g}"
        if CLAIMED[0] <= row["level"] <= CLAIMED[1]:
            if row["gap"] < MIN_GAP:
                report.claim(f"{name}: share of the gap closed", "no gap", row["gap"], True)
            else:
                closed = row["distill_gap_closed"]
                report.at_least(f"{name}: share of the gap closed", GAP_GOAL, closed)
        if row["level"] < 0.9:
            ratio = row["lm"] / row["distill"]
            report.at_least(f"{name}: perplexity, lm over distillation", 1.0, ratio)


def read_pocket(args: Namespace, folder: Path) -> Material:
    write_folder(folder)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    count, held_out = (
        (QUICK_CONVERSATIONS, QUICK_HELD_OUT) if args.quick else (CONVERSATIONS, HELD_OUT)
    )
    paths = write_conversations(folder, count, held_out, args.seed)
    training, measured = read(paths[0], tokenizer), read(paths[1], tokenizer, prompt_weight=0.0)
    held_out = measured.training + measured.held_out
    data = RecoveryData(training.training, held_out, training.sha256)
    levels = tuple(level for level in open_bundle("pocket").levels if level.ratio < 1.0)
    return Material(model, levels, data)


def read_model(args: Namespace) -> Material:
    """Reordered by importance, with the levels that `pliant elastify` would choose."""
    model, tokenizer = load_model(args.model), load_tokenizer(args.model)
    config = read_config(args.model)
    calibration = read_calibration(args.calibration, tokenizer, WINDOWS, WINDOW_TOKENS)
    losses = losses_without_layers(model, calibration.batches)
    anchors = choose_anchors(losses, default_anchor_count(config.num_layers))
    reorder_model(model, config, order_by(taylor_scores(model, config, calibration.batches)))
    levels = choose_levels(architecture(config), anchors, lora_rank=args.rank).levels
    training, measured = read(args.data, tokenizer), read(args.data, tokenizer, prompt_weight=0.0)
    data = replace(training, held_out=measured.held_out)
    return Material(model, levels[:-1], data)


def read(path: Path, tokenizer: Any, **overrides: float) -> RecoveryData:
    options = replace(RecoveryOptions(), **overrides)
    return read_recovery_data(path, tokenizer, options.max_tokens, options.prompt_weight)


if __name__ == "__main__":
    main()
