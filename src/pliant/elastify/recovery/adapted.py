"""A sub-model with a LoRA on each of its linear modules, of the sub-model's own sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, inject_adapter_in_model

from pliant.bundle.plan import Plan
from pliant.elastify.export import GGUF_NAMES, interleave_rotary
from pliant.elastify.source import config_of
from pliant.elastify.submodel import slice_model
from pliant.elastify.units import PROJECTIONS

Factors = Mapping[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
"""By tensor name of the GGUF (`blk.0.attn_q.weight`): A [rank, in] and B [out, rank]."""

_ADAPTER = "default"
_ROTARY = ("self_attn.q_proj", "self_attn.k_proj")


def adapt(model: Any, plan: Plan, *, rank: int, alpha: float, seed: int) -> Any:
    """What `plan` runs of a reordered transformers model, with new LoRA factors to train.

    A is drawn from `seed`, B is 0: the result computes what the bare sub-model does. Frozen
    weights are views of `model`'s. Raises PlanError if the plan does not fit.
    """
    small = slice_model(model, plan)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=linear_names(small), bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return inject_adapter_in_model(config, small)


def linear_names(small: Any) -> list[str]:
    """The elastic linear modules that a sub-model has."""
    return [
        f"model.layers.{index}.{projection.name}"
        for index, block in enumerate(small.model.layers)
        for projection in PROJECTIONS
        if _has(block, projection.name)
    ]


def trained_parameters(adapted: Any) -> dict[str, torch.nn.Parameter]:
    """The factors by their names in the module."""
    return {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}


def factors_of(adapted: Any) -> Factors:
    """The trained factors under the names, and with the rows, that the GGUF has."""
    head_dim = config_of(adapted.config).head_dim
    factors = {}
    for index, block in enumerate(adapted.model.layers):
        for projection in PROJECTIONS:
            if not _has(block, projection.name):
                continue
            module = block.get_submodule(projection.name)
            a, b = module.lora_A[_ADAPTER].weight, module.lora_B[_ADAPTER].weight
            if projection.name in _ROTARY:
                b = interleave_rotary(b, head_dim)
            name = f"blk.{index}.{GGUF_NAMES[projection.name]}.weight"
            factors[name] = (_array(a), _array(b))
    return factors


def _has(block: torch.nn.Module, name: str) -> bool:
    """A layer's absent half has no such module."""
    owner, _, child = name.partition(".")
    return hasattr(block.get_submodule(owner), child)


def _array(weight: torch.Tensor) -> npt.NDArray[np.float32]:
    return np.array(weight.detach().float().cpu().numpy(), order="C")
