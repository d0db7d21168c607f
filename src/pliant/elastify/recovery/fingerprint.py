"""What tells one training of a level from others."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from pliant.bundle.plan import Plan
from pliant.elastify.recovery.options import RecoveryOptions
from pliant.training.checkpoint import hash_weights


def training_fingerprint(
    model_sha256: str, plan: Plan, options: RecoveryOptions, data_sha256: str
) -> str:
    """Equal only for trainings that give the same result."""
    parts = [model_sha256, plan.to_json(), options.to_json(), data_sha256, torch.__version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def weights_sha256(model: Any) -> str:
    """Of all parameters, names included."""
    digest = hashlib.sha256()
    hash_weights(digest, dict(model.named_parameters()))
    return digest.hexdigest()
