"""A second model for benchmarks: grouped queries, trained at full width only.

The built-in model is trained at random prefix widths, so its units are ordered before anything
orders them. This one is not: it is what `pliant elastify` meets. Tasks, documents and tokenizer
are those of the built-in model; nothing but this repository is needed.

    python benchmarks/_plain.py FOLDER [--family qwen2] [--minutes 8]
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from torch.nn import functional
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from _pocket import pocket_tokenizer
from _requests import APPS
from pliant.bundle import open_bundle
from pocket.batches import Batch, Curriculum
from pocket.dataset import Dataset, Piece, build, pieces_of
from pocket.generate import make_scene
from train import GRAD_CLIP, lr_share, make_optimizers

SHAPE = {
    "hidden_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 384,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
FAMILIES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
DATASET_SHARE = 0.3  # of the tokens that the built-in model's data set has
BATCH_TOKENS = 2048
LEARNING_RATE = 3e-3
LOG_EVERY = 25


class GeneratedDocuments:
    """Endless conversations of the generator; the public sets are left out."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"plain-{seed}")

    def draw(self, level: int) -> list[Piece]:
        app = self._rng.choice(APPS)
        num_turns = self._rng.randint(2, 8)
        return pieces_of(make_scene(app, self._rng, level, num_turns, held_out=False))


def train_plain(folder: Path, minutes: float, seed: int = 0, family: str = "llama") -> None:
    """Writes a Hugging Face folder after `minutes` of training (making the data not counted)."""
    torch.manual_seed(seed)
    tokenizer = pocket_tokenizer(open_bundle("pocket"))
    data = build(GeneratedDocuments(seed), tokenizer.backend_tokenizer, DATASET_SHARE)
    config, network = FAMILIES[family]
    model = network(config(vocab_size=len(tokenizer), **SHAPE))
    _train(model, data, minutes * 60, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _train(model: PreTrainedModel, data: Dataset, budget_s: float, seed: int) -> None:
    optimizers = make_optimizers(model, LEARNING_RATE, muon=True)
    curriculum = Curriculum(data, BATCH_TOKENS, seed)
    started_s = time.monotonic()
    for step, batch in enumerate(curriculum):
        curriculum.progress = (time.monotonic() - started_s) / budget_s
        if curriculum.progress >= 1.0:
            return
        rate = LEARNING_RATE * lr_share(curriculum.progress)
        loss = _step(model, optimizers, batch, rate)
        if step % LOG_EVERY == 0:
            print(f"{curriculum.progress:.0%} step {step}: answers {loss:.3f}", flush=True)


def _step(
    model: PreTrainedModel, optimizers: list[torch.optim.Optimizer], batch: Batch, rate: float
) -> float:
    """One update; returns the loss of the answers."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=batch.inputs, use_cache=False).logits
    losses = functional.cross_entropy(
        logits.float().flatten(0, 1), batch.targets.flatten(), reduction="none"
    ).view_as(batch.weights)
    ((losses * batch.weights).sum() / batch.weights.sum()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    return float(losses[batch.is_answer].detach().mean())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--family", choices=tuple(FAMILIES), default="llama")
    options.add_argument("--minutes", type=float, default=8.0)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--threads", type=int, default=2)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    train_plain(args.folder, args.minutes, args.seed, args.family)


if __name__ == "__main__":
    main()
