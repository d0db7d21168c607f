"""Which units first, and which widths where? Perplexity and accuracy by importance and plan.

Takes a Hugging Face Llama-type folder, orders its units by each estimate of importance, by
magnitude and at random, gives the levels uniform and global plans, and runs the stand-alone
sub-models in transformers, float32. Answers are scored by the mean log-probability of each
choice.

    python benchmarks/plans.py [HF_DIR --calibration FILE --eval FILE.jsonl] [--text FILE]
    python benchmarks/plans.py --train-plain MINUTES

Without a folder it takes the built-in model and its held-out requests. That model is shipped in
the order of importance, and trained so that quality falls with the width: widths that are the
same everywhere are what it was trained for. `--train-plain` trains a model without either first
(`_plain.py`) and takes that.

Rows of the evaluation file: `messages` (role, content), `choices`, `answer_index`. Without
--text, perplexity is that of the right answers after their prompts.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from _plain import train_plain
from _pocket import write_folder, write_requests
from _questions import Material, read_material, scores
from _report import Report, parser
from pliant.bundle import Architecture, Level
from pliant.elastify.allocation import allocate_levels
from pliant.elastify.anchors import choose_anchors, default_anchor_count, losses_without_layers
from pliant.elastify.calibration import read_calibration
from pliant.elastify.importance import (
    DEFAULT_IMPORTANCE,
    IMPORTANCES,
    magnitude_scores,
    order_by,
    random_order,
)
from pliant.elastify.inputs import WINDOW_TOKENS, WINDOWS
from pliant.elastify.levels import choose_levels
from pliant.elastify.reorder import reorder_model
from pliant.elastify.source import SourceConfig, load_model, load_tokenizer, read_config
from pliant.elastify.submodel import slice_model
from pliant.elastify.units import UnitOrder
from pliant.elastify.windows import Windows

RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7)
QUICK_RATIOS = (0.3, 0.5)
RANDOM_SEEDS = 3
QUICK_RANDOM_SEEDS = 1
QUICK_WINDOWS = 8


@dataclass(frozen=True)
class Setup:
    """What every row shares; `ratios` are the levels that are measured."""

    model: Any
    config: SourceConfig
    calibration: tuple[Windows, ...]
    material: Material
    ratios: tuple[float, ...]
    targets: tuple[float, ...]

    def uniform_levels(self, _: Any) -> Sequence[Level]:
        losses = losses_without_layers(self.model, self.calibration)
        anchors = choose_anchors(losses, default_anchor_count(self.config.num_layers))
        return choose_levels(architecture(self.config), anchors, targets=self.targets).levels

    def global_levels(self, reordered: Any) -> Sequence[Level]:
        return allocate_levels(
            reordered, self.config, architecture(self.config), self.calibration,
            targets=self.targets,
        ).levels  # fmt: skip


def main() -> None:
    args = options().parse_args()
    torch.set_num_threads(args.threads)
    report = Report("plans", seed=args.seed, quick=args.quick)
    with tempfile.TemporaryDirectory() as scratch:
        if args.model is None:
            args.model = Path(scratch)
            if args.train_plain is None:
                write_folder(args.model)
            else:
                train_plain(args.model, args.train_plain, args.seed)
            per_app = args.questions // 6 + 1
            args.calibration, args.eval = write_requests(args.model, per_app, args.seed)
        measure(setup(args), report, args)
    claim(report)
    report.finish(args.json)


def options() -> ArgumentParser:
    found = parser("Compare importance and plans at the levels 0.3 to 0.7.")
    found.add_argument("model", type=Path, nargs="?", help="Hugging Face folder")
    found.add_argument("--calibration", type=Path, help="text for importance and plans")
    found.add_argument("--eval", type=Path, help="JSON lines with choices")
    found.add_argument("--text", type=Path, help="other text, for perplexity")
    found.add_argument("--train-plain", type=float, metavar="MINUTES", help="train a model first")
    found.add_argument("--questions", type=int, default=180, help="how many of the rows")
    found.add_argument("--windows", type=int, default=WINDOWS, help="of calibration text")
    found.add_argument("--importance", nargs="+", help="only these orders")
    found.add_argument("--threads", type=int, default=2)
    return found


def setup(args: Namespace) -> Setup:
    if args.calibration is None or args.eval is None:
        sys.exit("a model needs --calibration and --eval")
    tokenizer = load_tokenizer(args.model)
    windows = min(args.windows, QUICK_WINDOWS) if args.quick else args.windows
    ratios = QUICK_RATIOS if args.quick else RATIOS
    return Setup(
        model=load_model(args.model).requires_grad_(False),
        config=read_config(args.model),
        calibration=read_calibration(args.calibration, tokenizer, windows, WINDOW_TOKENS).batches,
        material=read_material(args, tokenizer, windows),
        ratios=ratios,
        targets=tuple(sorted({*ratios, *((0.9, 0.8) if not args.quick else ())})),
    )


def measure(run: Setup, report: Report, args: Namespace) -> None:
    """One row for each importance, plan and level."""
    report.row(importance="(whole model)", plan="", level=1.0, cost=1.0,
               **scores(run.model, run.material))  # fmt: skip
    seeds = QUICK_RANDOM_SEEDS if args.quick else RANDOM_SEEDS
    uniform = run.uniform_levels(run.model)
    for name, order in orders(run, args.seed, seeds, args.importance):
        reordered = copy.deepcopy(run.model)
        reorder_model(reordered, run.config, order)
        plans = {"uniform": lambda _: uniform, "global": run.global_levels}
        for plan, levels_of in plans.items():
            started = time.monotonic()
            levels = levels_of(reordered)
            seconds = time.monotonic() - started
            for level in levels:
                if level.ratio in run.ratios:
                    measured = scores(slice_model(reordered, level.plan), run.material)
                    columns = {"importance": name, "plan": plan, "level": level.ratio}
                    report.row(**columns, cost=level.cost, **measured)
            print(f"{name}, {plan} plans: found in {seconds:.0f} s", file=sys.stderr)


def orders(
    run: Setup, seed: int, num_random: int, wanted: Sequence[str] | None
) -> Iterator[tuple[str, UnitOrder]]:
    """Every order by its name; those not in `wanted` are not computed."""
    makers = {name: partial(_by_importance, run, name) for name in IMPORTANCES}
    makers["magnitude"] = lambda: order_by(magnitude_scores(run.model, run.config))
    for index in range(num_random):
        makers[f"random {index}"] = partial(random_order, run.config, seed + index)
    for name, make in makers.items():
        if wanted is None or _kind(name) in wanted:
            yield name, make()


def _by_importance(run: Setup, name: str) -> UnitOrder:
    return order_by(IMPORTANCES[name](run.model, run.config, run.calibration))


def claim(report: Report) -> None:
    """The default importance against the baselines, and global plans against uniform ones."""
    for level in sorted({row["level"] for row in report.results} - {1.0}):
        ours = _mean_of(report, DEFAULT_IMPORTANCE, "uniform", level)
        for other in ("random", "magnitude"):
            theirs = _mean_of(report, other, "uniform", level)
            _compare(report, f"{DEFAULT_IMPORTANCE} against {other}", level, ours, theirs)
        best = _mean_of(report, DEFAULT_IMPORTANCE, "global", level)
        _compare(report, "global against uniform plans", level, best, ours)


def _compare(
    report: Report,
    what: str,
    level: float,
    ours: dict[str, float] | None,
    theirs: dict[str, float] | None,
) -> None:
    if ours is None or theirs is None:
        return
    name = f"{what} at level {level:g}"
    ratio = theirs["perplexity"] / ours["perplexity"]
    report.at_least(f"{name}: perplexity ratio", 1.0, ratio)
    report.at_least(f"{name}: accuracy, points", 0.0, 100 * (ours["accuracy"] - theirs["accuracy"]))


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


def _mean_of(report: Report, importance: str, plan: str, level: float) -> dict[str, float] | None:
    """Over the seeds of a random order."""
    found = [
        row
        for row in report.results
        if (_kind(row["importance"]), row["plan"], row["level"]) == (importance, plan, level)
    ]
    if not found:
        return None
    return {name: mean(row[name] for row in found) for name in ("perplexity", "accuracy")}


def _kind(importance: str) -> str:
    return importance.partition(" ")[0]


if __name__ == "__main__":
    main()
