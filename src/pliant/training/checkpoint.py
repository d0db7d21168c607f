"""The state of a training on disk: safetensors, replaced as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pliant.errors import TrainingError
from pliant.files import replacing


@dataclass(frozen=True, eq=False)
class TrainState:
    """After `step` updates. `tensors`: parameters, their moments, and the losses."""

    step: int
    tensors: dict[str, torch.Tensor]


def hash_weights(digest: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Adds all of them to `digest`, one of hashlib's, names included, in the order of names."""
    for name, weight in sorted(weights.items()):
        flat = weight.detach().cpu().contiguous().reshape(-1)
        digest.update(name.encode() + b"\0")
        digest.update(flat.view(torch.uint8).numpy())


def save_state(path: Path, state: TrainState, fingerprint: str) -> None:
    """Writes beside `path` and renames, so that a reader sees all of it or what was before.

    `fingerprint` tells the training from others. Raises TrainingError if it cannot be written.
    """
    metadata = {"step": str(state.step), "fingerprint": fingerprint}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(path) as draft:
            save_file(state.tensors, draft, metadata)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"the checkpoint {path} cannot be written: {error}") from error


def load_state(path: Path, fingerprint: str) -> TrainState | None:
    """None if there is no file, it is damaged, or it belongs to another training."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            step = int(metadata.get("step", "-1"))
            if metadata.get("fingerprint") != fingerprint or step < 0:
                return None
            # get_tensor maps the file, which the next save replaces: hence a copy.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return TrainState(step, tensors)
    except (OSError, SafetensorError, ValueError):
        return None
