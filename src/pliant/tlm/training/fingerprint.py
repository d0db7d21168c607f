"""What tells one training of a head from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

import torch

from pliant.tlm.training.options import TrainOptions
from pliant.training.checkpoint import hash_weights


def fingerprint(
    task: str,
    weights: Mapping[str, torch.Tensor],
    options: TrainOptions,
    examples: Iterable[object],
) -> str:
    """Equal only for trainings that give the same result; `examples` are told by their repr."""
    digest = hashlib.sha256()
    digest.update(json.dumps([task, options.to_json(), torch.__version__]).encode())
    hash_weights(digest, weights)
    for example in examples:
        digest.update(repr(example).encode() + b"\0")
    return digest.hexdigest()
