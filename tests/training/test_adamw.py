"""AdamW that goes on from a checkpoint, against torch's own on the whole training."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pliant.training.adamw import MAX_GRADIENT_NORM, AdamW, rate_share

STEPS = 9


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 3)


def loss_of(model: nn.Linear, step: int) -> Tensor:
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(step))
    return (model(10 * x) - x[:, :3]).square().mean()


def train(model: nn.Linear, checkpoint: Path | None, until: int, owner: str = "this") -> AdamW:
    optimizer = AdamW(dict(model.named_parameters()), checkpoint, owner, weight_decay=0.1)
    while optimizer.step < until:
        optimizer.update(loss_of(model, optimizer.step), 0.1 * rate_share(optimizer.step, STEPS))
    return optimizer


def test_as_torch_does_with_clipped_gradients(tmp_path: Path) -> None:
    reference, losses = network(), []
    optimizer = torch.optim.AdamW(reference.parameters(), weight_decay=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(reference, step)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(reference.parameters(), MAX_GRADIENT_NORM)
        optimizer.param_groups[0]["lr"] = 0.1 * rate_share(step, STEPS)
        optimizer.step()
        losses.append(loss.item())
    path = tmp_path / "deep" / "state.safetensors"
    train(network(), path, 4).save()
    resumed = network()
    optimizer = train(resumed, path, STEPS)
    assert optimizer.losses == losses
    assert torch.equal(resumed.weight, reference.weight)
    assert torch.equal(resumed.bias, reference.bias)


def test_goes_on_only_with_its_own_training(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    train(network(), path, 0).save()
    assert not path.exists()
    train(network(), path, 4).save()
    model = network()
    assert train(model, path, 0, owner="another").step == 0
    assert torch.equal(model.weight, network().weight)
    assert train(model, path, 0).step == 4
    assert not torch.equal(model.weight, network().weight)


def test_the_rate_rises_and_falls_to_zero() -> None:
    shares = [rate_share(step, 100) for step in range(101)]
    assert max(shares) == 1.0
    assert shares[0] == pytest.approx(0.2)
    assert shares[100] == 0.0
    assert sorted(shares[5:], reverse=True) == shares[5:]
    assert rate_share(0, 1) == 1.0
