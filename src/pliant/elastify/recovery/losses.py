"""What recovery lowers: the error on the data, or the distance from the full model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from pliant.elastify.recovery.batches import Batch
from pliant.elastify.source import Dtype


def scored_logits(model: Any, batch: Batch, dtype: Dtype = "f32") -> torch.Tensor:
    """Float32 [n, vocabulary]: the logits at the n positions whose weight is not 0, row by row.

    The output head, the largest matrix of a small sub-model, runs only where some row needs it.
    """
    device = next(model.parameters()).device
    scored = batch.weights > 0
    kept = scored.any(dim=0).nonzero()[:, 0]
    tokens, kept_there = batch.tokens[:, :-1].to(device), kept.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
        logits: torch.Tensor = model(
            input_ids=tokens, use_cache=False, logits_to_keep=kept_there
        ).logits
    return logits[scored[:, kept].to(device)].float()


def lm_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Weighted mean of -log p(next token), from the logits that `scored_logits` gave."""
    scored = batch.weights > 0
    targets = batch.tokens[:, 1:][scored].to(logits.device)
    losses = functional.cross_entropy(logits, targets, reduction="none")
    return _weighted_mean(losses, batch)


def distillation_loss(
    logits: torch.Tensor, teacher_logits: torch.Tensor, batch: Batch
) -> torch.Tensor:
    """Weighted mean of KL(teacher || student) over the next token (arXiv 1503.02531, at
    temperature 1), from the logits that `scored_logits` gave."""
    teacher = functional.log_softmax(teacher_logits, dim=-1)
    student = functional.log_softmax(logits, dim=-1)
    divergence = functional.kl_div(student, teacher, reduction="none", log_target=True)
    return _weighted_mean(divergence.sum(dim=-1), batch)


@torch.no_grad()
def mean_lm_loss(model: Any, batches: Sequence[Batch]) -> float:
    """Weighted mean of -log p(next token) over all batches."""
    total = weight = 0.0
    for batch in batches:
        batch_weight = float(batch.weights.sum())
        total += float(lm_loss(scored_logits(model, batch), batch)) * batch_weight
        weight += batch_weight
    return total / weight


def _weighted_mean(losses: torch.Tensor, batch: Batch) -> torch.Tensor:
    weights = batch.weights[batch.weights > 0].to(losses.device)
    return (losses * weights).sum() / weights.sum()
