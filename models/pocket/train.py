"""Trains the built-in model within a time budget, at full and at random prefix widths.

Every step adds one full-width micro-batch and one at random widths, each in a thread of
its own with single-threaded operators: two workers that meet once a step lose far less to
a busy machine than operators that meet at every barrier.  The learning rate follows the
share of the time budget that is used, so the deadline ends a whole schedule.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn import functional

from pocket.batches import Batch, Curriculum
from pocket.dataset import Dataset
from pocket.export import save_hf
from pocket.model import Config, ElasticLlama, Widths, random_widths

WARMUP_SHARE = 0.02
GRAD_CLIP = 1.0
ELASTIC_TOKENS = 1.6
"""Size of the random-width micro-batch, cheaper per token, against the full one."""


@dataclass
class Clock:
    """The time budget; seconds of earlier runs count."""

    budget_s: float
    used_before_s: float = 0.0
    started_s: float = field(default_factory=time.monotonic)

    @property
    def used_s(self) -> float:
        return self.used_before_s + time.monotonic() - self.started_s

    @property
    def progress(self) -> float:
        return min(1.0, self.used_s / (self.budget_s + self.used_before_s))


def lr_share(progress: float) -> float:
    """Share of the peak rate: linear warm-up, level until the middle, linear to zero."""
    if progress < WARMUP_SHARE:
        return max(0.02, progress / WARMUP_SHARE)
    return min(1.0, 2.0 * (1.0 - progress))


def make_optimizers(model: ElasticLlama, lr: float, muon: bool) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    norms = [p for p in model.parameters() if p.ndim == 1]
    embedding = [model.model.embed_tokens.weight]
    decayed = embedding if muon else [*embedding, *matrices]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))
    if not muon:
        return [adam]
    halves = (matrices[::2], matrices[1::2])
    rest = [
        torch.optim.Muon(half, lr=lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for half in halves
    ]
    return [adam, *rest]


@dataclass(frozen=True)
class Pass:
    """What one micro-batch gives: gradients, weighted loss, loss of the answers."""

    gradients: tuple[torch.Tensor | None, ...]
    loss: float
    answer_loss: float


def run_pass(model: ElasticLlama, batch: Batch, widths: Widths | None) -> Pass:
    """Forward and backward; touches no shared state, so passes may run side by side."""
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        logits = model(batch.inputs, widths)
    losses = functional.cross_entropy(
        logits.float().flatten(0, 1), batch.targets.flatten(), reduction="none"
    ).view_as(batch.weights)
    loss = (losses * batch.weights).sum() / batch.weights.sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    answers = losses.detach()[batch.is_answer]
    # A batch of running text alone has no answers; it then says nothing about them.
    answer_loss = answers.mean() if len(answers) else loss.detach()
    return Pass(gradients, float(loss.detach()), float(answer_loss))


def add_gradients(model: ElasticLlama, passes: list[Pass]) -> None:
    """Sets every ``.grad`` to the mean over the passes."""
    for i, parameter in enumerate(model.parameters()):
        found = [g for g in (p.gradients[i] for p in passes) if g is not None]
        parameter.grad = torch.stack(found).sum(0) / len(passes) if found else None


@dataclass
class Meter:
    """Sums since the last line of the log."""

    tokens: int = 0
    loss: float = 0.0
    answer_loss: float = 0.0
    elastic_answer_loss: float = 0.0
    steps: int = 0
    since_s: float = field(default_factory=time.monotonic)

    def add(self, full: Pass, elastic: Pass, num_tokens: int) -> None:
        self.tokens += num_tokens
        self.loss += full.loss
        self.answer_loss += full.answer_loss
        self.elastic_answer_loss += elastic.answer_loss
        self.steps += 1

    def line(self) -> dict[str, float]:
        steps = max(1, self.steps)
        return {
            "loss": round(self.loss / steps, 4),
            "answer_loss": round(self.answer_loss / steps, 4),
            "elastic_answer_loss": round(self.elastic_answer_loss / steps, 4),
            "tokens_per_s": round(self.tokens / (time.monotonic() - self.since_s)),
        }


class Trainer:
    """The run: model, optimisers, data, clock and where the results go."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        torch.set_num_threads(1)
        self.args = args
        self.model = ElasticLlama(Config())
        self.optimizers = make_optimizers(self.model, args.lr, not args.no_muon)
        self.rng = random.Random(args.seed)
        dataset = Dataset.load(args.dataset)
        elastic_tokens = round(args.batch_tokens * ELASTIC_TOKENS)
        self.curricula = [
            Curriculum(dataset, args.batch_tokens, args.seed),
            Curriculum(dataset, elastic_tokens, args.seed + 1),
        ]
        self.pool = ThreadPoolExecutor(max_workers=len(self.curricula))
        self.clock = Clock(budget_seconds(args))
        self.tokens = self.steps = 0
        if (args.out / "checkpoint.pt").exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.args.out / "checkpoint.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.clock.used_before_s = state["used_s"]
        self.tokens, self.steps = state["tokens"], state["steps"]
        self.rng.seed(self.args.seed + self.steps)
        for curriculum in self.curricula:
            curriculum.reseed(self.args.seed + self.steps)

    def save(self) -> None:
        """Checkpoint (replaced in one step) and the model as a Hugging Face folder."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "used_s": self.clock.used_s,
            "tokens": self.tokens,
            "steps": self.steps,
        }
        torch.save(state, self.args.out / "checkpoint.tmp")
        (self.args.out / "checkpoint.tmp").replace(self.args.out / "checkpoint.pt")
        save_hf(self.model, self.args.dataset, self.args.out / "hf-latest")

    def step(self, streams: list[Iterator[Batch]], meter: Meter) -> None:
        rate = self.args.lr * lr_share(self.clock.progress)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        batches = [next(stream) for stream in streams]
        widths = (None, random_widths(self.model.config, self.rng))
        passes = list(self.pool.map(run_pass, [self.model] * 2, batches, widths))
        add_gradients(self.model, passes)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRAD_CLIP)
        list(self.pool.map(lambda optimizer: optimizer.step(), self.optimizers))
        num_tokens = sum(batch.num_tokens for batch in batches)
        meter.add(passes[0], passes[1], num_tokens)
        self.tokens += num_tokens
        self.steps += 1

    def run(self) -> None:
        streams, meter = [iter(c) for c in self.curricula], Meter()
        saved_s = time.monotonic()
        while self.clock.progress < 1.0:
            for curriculum in self.curricula:
                curriculum.progress = self.clock.progress
            self.step(streams, meter)
            if self.steps % self.args.log_every == 0:
                self._log(meter)
                meter = Meter()
            if time.monotonic() - saved_s > self.args.save_minutes * 60:
                self.save()
                saved_s = time.monotonic()
        self._log(meter)
        self.save()

    def _log(self, meter: Meter) -> None:
        where = {
            "minutes": round(self.clock.used_s / 60, 1),
            "progress": round(self.clock.progress, 4),
            "step": self.steps,
            "tokens": self.tokens,
        }
        print(json.dumps({**where, **meter.line()}), flush=True)


def budget_seconds(args: argparse.Namespace) -> float:
    """Seconds from now to the deadline."""
    if args.until is None:
        return float(args.minutes * 60)
    now = datetime.datetime.now()
    end = now.replace(hour=args.until.hour, minute=args.until.minute, second=0)
    return (end - now).total_seconds() % 86400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", type=Path, required=True, help="folder of build_data.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=70.0)
    parser.add_argument("--until", type=datetime.time.fromisoformat, help="deadline as HH:MM")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument(
        "--batch-tokens", type=int, default=4096, help="of the full-width micro-batch"
    )
    parser.add_argument("--no-muon", action="store_true", help="AdamW for all parameters")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log-every", type=int, default=25)
    parser.add_argument("--save-minutes", type=float, default=5.0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(args)
    trainer.run()
    print(f"done: {trainer.tokens} tokens in {trainer.steps} steps", file=sys.stderr)


if __name__ == "__main__":
    main()
