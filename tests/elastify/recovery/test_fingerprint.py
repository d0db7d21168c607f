"""What tells trainings apart."""

import torch

from pliant.bundle import LayerPlan, Plan
from pliant.elastify.recovery.fingerprint import training_fingerprint, weights_sha256
from pliant.elastify.recovery.options import RecoveryOptions
from support.tiny_hf import make_model


def test_fingerprints_tell_trainings_apart() -> None:
    plan, other = Plan((LayerPlan(1, 1, 32),)), Plan((LayerPlan(1, 1, 64),))
    options = RecoveryOptions()
    prints = [
        training_fingerprint("w", plan, options, "d"),
        training_fingerprint("v", plan, options, "d"),
        training_fingerprint("w", other, options, "d"),
        training_fingerprint("w", plan, RecoveryOptions(steps=1), "d"),
        training_fingerprint("w", plan, options, "e"),
    ]
    assert len(set(prints)) == len(prints)
    assert training_fingerprint("w", plan, RecoveryOptions(), "d") == prints[0]


def test_weights_are_told_apart() -> None:
    assert weights_sha256(make_model()) == weights_sha256(make_model())
    assert weights_sha256(make_model()) != weights_sha256(make_model(seed=1))
    assert weights_sha256(make_model()) != weights_sha256(make_model().to(torch.bfloat16))
