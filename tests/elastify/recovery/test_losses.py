"""Losses against slow plain ones, and against transformers' own."""

import numpy as np
import pytest
import torch

from pliant.elastify.examples import Example
from pliant.elastify.recovery.batches import Batch, collate
from pliant.elastify.recovery.losses import (
    distillation_loss,
    lm_loss,
    mean_lm_loss,
    scored_logits,
)
from support.tiny_hf import make_model


def make_batch(weights: list[list[float]]) -> Batch:
    random = np.random.default_rng(0)
    rows = [np.array(row, np.float32) for row in weights]
    return collate([Example(random.integers(6, 300, len(row)), row) for row in rows])


BATCH = make_batch([[0, 0, 0.5, 1, 1], [0, 0.25, 0, 1, 0.5, 0.5, 1], [0, 0, 0, 1]])


def test_logits_are_those_of_each_row_alone() -> None:
    model = make_model().requires_grad_(False)
    found = scored_logits(model, BATCH)
    expected = []
    for tokens, weights in zip(BATCH.tokens, BATCH.weights, strict=True):
        length = int(weights.nonzero().max()) + 2
        logits = model(input_ids=tokens[None, :length], use_cache=False).logits[0]
        expected += [logits[at] for at in range(length - 1) if weights[at] > 0]
    torch.testing.assert_close(found, torch.stack(expected))
    in_bf16 = scored_logits(model, BATCH, "bf16")
    assert in_bf16.dtype is torch.float32
    assert 0 < float((in_bf16 - found).norm() / found.norm()) < 0.05


def test_language_modelling_loss_is_transformers() -> None:
    model = make_model()
    batch = make_batch([[0.0] + [1.0] * 11] * 2)
    expected = model(input_ids=batch.tokens, labels=batch.tokens).loss
    torch.testing.assert_close(lm_loss(scored_logits(model, batch), batch), expected)


def test_weighted_losses_by_hand() -> None:
    student, teacher = (scored_logits(make_model(seed=seed), BATCH).detach() for seed in (0, 1))
    p, q = torch.softmax(teacher, -1), torch.softmax(student, -1)
    nll = divergence = total = at = 0.0
    for row, weights in zip(BATCH.tokens, BATCH.weights, strict=True):
        for position in range(len(weights)):
            weight = float(weights[position])
            if weight:
                index = int(at)
                nll -= weight * float(q[index, row[position + 1]].log())
                terms = p[index] * (p[index] / q[index]).log()
                divergence += weight * float(terms.sum())
                total += weight
                at += 1
    assert float(lm_loss(student, BATCH)) == pytest.approx(nll / total, rel=1e-4)
    assert float(distillation_loss(student, teacher, BATCH)) == pytest.approx(
        divergence / total, rel=1e-4
    )
    assert abs(float(distillation_loss(student, student, BATCH))) < 1e-5


def test_the_mean_over_batches_weighs_tokens_not_batches() -> None:
    model = make_model().requires_grad_(False)
    other = make_batch([[0, 1, 1]])
    losses = [float(lm_loss(scored_logits(model, one), one)) for one in (BATCH, other)]
    sums = [float(one.weights.sum()) for one in (BATCH, other)]
    expected = (losses[0] * sums[0] + losses[1] * sums[1]) / sum(sums)
    assert mean_lm_loss(model, [BATCH, other]) == pytest.approx(expected)
