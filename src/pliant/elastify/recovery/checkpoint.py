"""The state of one level's training on disk: safetensors, replaced as a whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pliant.bundle.plan import Plan
from pliant.elastify.recovery.options import RecoveryOptions
from pliant.errors import ElastifyError


@dataclass(frozen=True, eq=False)
class TrainingState:
    """After `step` updates. `tensors`: the factors, their optimizer moments, and the losses."""

    step: int
    tensors: dict[str, torch.Tensor]


def training_fingerprint(
    model_sha256: str, plan: Plan, options: RecoveryOptions, data_sha256: str
) -> str:
    """Equal only for trainings that give the same result."""
    parts = [model_sha256, plan.to_json(), options.to_json(), data_sha256, torch.__version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def weights_sha256(model: Any) -> str:
    """Of all parameters, names included."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        digest.update(name.encode() + b"\0")
        flat = weight.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def save_state(path: Path, state: TrainingState, fingerprint: str) -> None:
    """Writes beside `path` and renames, so that a reader sees all of it or what was before."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    metadata = {"step": str(state.step), "fingerprint": fingerprint}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        save_file(state.tensors, draft, metadata)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except (OSError, SafetensorError) as error:
        raise ElastifyError(f"the checkpoint {path} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def load_state(path: Path, fingerprint: str) -> TrainingState | None:
    """None if there is no file, it is damaged, or it belongs to another training."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            step = int(metadata.get("step", "-1"))
            if metadata.get("fingerprint") != fingerprint or step < 0:
                return None
            # get_tensor maps the file, which the next save replaces: hence a copy.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return TrainingState(step, tensors)
    except (OSError, SafetensorError, ValueError):
        return None
