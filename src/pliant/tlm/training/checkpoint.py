"""The state of a training on disk: safetensors, replaced as a whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pliant.errors import TrainingError
from pliant.tlm.training.options import TrainOptions


@dataclass(frozen=True, eq=False)
class TrainState:
    """After `step` updates. `tensors`: parameters, their moments, and the losses."""

    step: int
    tensors: dict[str, torch.Tensor]


def fingerprint(
    task: str,
    weights: Mapping[str, torch.Tensor],
    options: TrainOptions,
    examples: Iterable[object],
) -> str:
    """Equal only for trainings that give the same result; `examples` are told by their repr."""
    digest = hashlib.sha256()
    digest.update(json.dumps([task, options.to_json(), torch.__version__]).encode())
    for name, weight in sorted(weights.items()):
        flat = weight.detach().cpu().contiguous().reshape(-1)
        digest.update(name.encode() + b"\0")
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    for example in examples:
        digest.update(repr(example).encode() + b"\0")
    return digest.hexdigest()


def save_state(path: Path, state: TrainState, owner: str) -> None:
    """Writes beside `path` and renames, so that a reader sees all of it or what was before."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        save_file(state.tensors, draft, {"step": str(state.step), "fingerprint": owner})
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"the checkpoint {path} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def load_state(path: Path, owner: str) -> TrainState | None:
    """None if there is no file, it is damaged, or it belongs to another training."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            step = int(metadata.get("step", "-1"))
            if metadata.get("fingerprint") != owner or step < 0:
                return None
            # get_tensor maps the file, which the next save replaces: hence a copy.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return TrainState(step, tensors)
    except (OSError, SafetensorError, ValueError):
        return None
