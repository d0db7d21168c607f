"""Factors in closed form against least squares by numpy, and on sub-models."""

import numpy as np
import pytest
import torch

from pliant.bundle import LayerPlan, Level, Plan
from pliant.elastify.examples import Example
from pliant.elastify.families import SOURCES
from pliant.elastify.fused import split_fused
from pliant.elastify.precision import widened
from pliant.elastify.recovery import fitting
from pliant.elastify.recovery.adapted import adapt, factors_of
from pliant.elastify.recovery.batches import collate
from pliant.elastify.recovery.fitting import Sample, fit_factors, full_outputs, reduced_rank
from pliant.elastify.recovery.losses import scored_logits
from pliant.elastify.recovery.options import RecoveryOptions
from pliant.elastify.recovery.trainee import Trainee
from pliant.elastify.submodel import slice_model
from support.tiny_hf import make_model

PLAN = Plan((LayerPlan(4, 2, 128), LayerPlan(2, 2, 64), LayerPlan(1, 2, 32)))
OPTIONS = RecoveryOptions(rank=4, alpha=12)


def make_examples(count: int, seed: int) -> list[Example]:
    random = np.random.default_rng(seed)
    lengths = random.integers(8, 40, count)
    return [Example(random.integers(6, 90, n), np.ones(n, np.float32)) for n in lengths]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_with_all_directions_it_is_least_squares() -> None:
    inputs, targets = normal(300, 20), normal(300, 6, seed=1)
    a, b = reduced_rank(inputs, targets, torch.ones(300), 6)
    expected = np.linalg.lstsq(inputs.numpy(), targets.numpy(), rcond=None)[0]
    # The ridge draws it towards nothing by a hundredth.
    np.testing.assert_allclose((b @ a).T.numpy(), expected, atol=0.02)


def test_no_other_factors_of_the_rank_are_closer() -> None:
    """The ridge is a row of zeros to be hit per input; the best of a rank is then known."""
    inputs = (normal(80, 60) @ normal(60, 60, seed=1) ** 3).double()
    targets, rank = normal(80, 12, seed=2).double(), 3
    ridge = (inputs**2).sum(0).mean() * fitting._RIDGE
    rows = torch.cat([inputs, torch.eye(60).double() * ridge.sqrt()])
    hit = torch.cat([targets, torch.zeros(60, 12).double()])
    whole = torch.linalg.lstsq(rows, hit).solution
    best = torch.linalg.svd(rows @ whole, full_matrices=False)[2][:rank]
    a, b = reduced_rank(inputs.float(), targets.float(), torch.ones(80), rank)
    found, least = (
        float((rows @ m - hit).norm()) for m in ((b @ a).T.double(), whole @ best.T @ best)
    )
    assert found == pytest.approx(least, rel=1e-6)


def test_sums_are_exact_where_products_are_bfloat16() -> None:
    inputs = normal(2000, 32)
    inputs[:, :2] += 100  # as some units of language models are
    targets = inputs[:, 2:] @ normal(30, 6, seed=1)
    arguments = inputs, targets, torch.ones(2000), 4
    with torch.autocast("cpu", torch.bfloat16):
        found = reduced_rank(*arguments)
    for one, other in zip(found, reduced_rank(*arguments), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("rank", [1, 3])
def test_a_rank_takes_the_best_directions_of_the_fit(rank: int) -> None:
    inputs, targets = normal(400, 16), normal(400, 10, seed=1)
    whole = inputs @ torch.linalg.lstsq(inputs, targets).solution
    left, sizes, right = torch.linalg.svd(whole, full_matrices=False)
    best = left[:, :rank] * sizes[:rank] @ right[:rank]
    a, b = reduced_rank(inputs, targets, torch.ones(400), rank)
    assert a.shape == (rank, 16) and b.shape == (10, rank)
    found = inputs @ a.T @ b.T
    assert float((found - best).norm() / best.norm()) < 0.03


def test_what_has_a_low_rank_is_found_whole() -> None:
    inputs, weight = normal(200, 24), normal(24, 2) @ normal(2, 12, seed=1)
    a, b = reduced_rank(inputs, inputs @ weight, torch.ones(200), 4)
    assert float(((b @ a).T - weight).norm() / weight.norm()) < 0.02


def test_a_token_of_weight_three_counts_as_three_tokens() -> None:
    inputs, targets, weights = normal(60, 8), normal(60, 5, seed=1), torch.ones(60)
    weights[:20] = 3
    repeats = weights.long()
    pairs = [
        reduced_rank(inputs, targets, weights, 2),
        reduced_rank(
            inputs.repeat_interleave(repeats, 0),
            targets.repeat_interleave(repeats, 0),
            torch.ones(int(repeats.sum())),
            2,
        ),
    ]
    products = [(b @ a).numpy() for a, b in pairs]
    np.testing.assert_allclose(*products, atol=1e-4)


def test_fewer_outputs_than_the_rank_leave_the_rest_empty() -> None:
    a, b = reduced_rank(normal(50, 8), normal(50, 2, seed=1), torch.ones(50), 4)
    assert a.shape == (4, 8) and b.shape == (2, 4) and not b[:, 2:].any()


def test_a_fitted_sub_model_writes_nearly_what_the_full_one_does() -> None:
    """Of random weights nothing has a low rank, so the rank is not low here."""
    model, sample, options = make_model(), Sample(make_examples(120, 0)), RecoveryOptions(rank=48)
    adapted = adapt(model, PLAN, rank=options.rank, alpha=options.alpha, seed=0)
    fit_factors(adapted, full_outputs(model, sample, "f32"), sample, options)
    held_out = collate(make_examples(30, 1))
    with torch.no_grad():
        full, bare, fitted = (
            scored_logits(one, held_out) for one in (model, slice_model(model, PLAN), adapted)
        )
    assert float((fitted - full).norm()) < 0.95 * float((bare - full).norm())
    changed = {name for name, (_, b) in factors_of(adapted).items() if b.any()}
    assert {name.rpartition(".")[2] for name in changed} == {"o_proj", "down_proj"}


def test_padding_and_its_neighbours_change_nothing() -> None:
    model, examples = make_model(), make_examples(12, 0)
    together = full_outputs(model, Sample(examples), "f32")
    apart = [full_outputs(model, Sample([example]), "f32") for example in examples]
    for name, outputs in together.items():
        alone = torch.cat([one[name] for one in apart])
        np.testing.assert_allclose(outputs.float().numpy(), alone.float().numpy(), atol=2e-2)


@torch.no_grad()
def test_training_begins_at_fitted_factors_only_if_they_are_better() -> None:
    model, sample, level = make_model(), Sample(make_examples(60, 0)), Level(0.5, PLAN, 0.5)
    batch = collate(make_examples(20, 1))
    check = batch, scored_logits(model, batch)
    full = full_outputs(model, sample, "f32")
    wrong = {name: -40 * outputs for name, outputs in full.items()}
    for outputs, is_better in ((full, True), (wrong, False)):
        trainee = Trainee(model, level, OPTIONS, None, "")
        bare = float(trainee.loss(*check))
        trainee.fit(outputs, sample, [check])
        begun = float(trainee.loss(*check))
        assert (begun < bare) if is_better else (begun == bare)
        assert any(b.any() for _, b in factors_of(trainee.model).values()) == is_better


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", sorted(SOURCES))
def test_every_family_begins_better(kind: str, dtype: torch.dtype) -> None:
    """Also with layers that lack a half; 16-bit models learn as `pliant elastify` lets them."""
    model = split_fused(make_model(kind).to(dtype))
    layers = (LayerPlan(2, 2, 64), LayerPlan(0, 0, 64), LayerPlan(4, 1, 0), LayerPlan(3, 2, 96))
    count = model.config.num_hidden_layers
    level = Level(0.5, Plan((layers * count)[:count]), 0.5)
    options = RecoveryOptions(dtype="bf16" if dtype is torch.bfloat16 else "f32")
    sample, batch = Sample(make_examples(200, 0)), collate(make_examples(40, 1))
    with widened(model):
        check = batch, scored_logits(model, batch, options.dtype)
        trainee = Trainee(model, level, options, None, "")
        bare = float(trainee.loss(*check))
        trainee.fit(full_outputs(model, sample, options.dtype), sample, [check])
        assert float(trainee.loss(*check)) < bare
