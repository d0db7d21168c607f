"""A sub-model with a LoRA on each of its linear modules, of the sub-model's own sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, inject_adapter_in_model

from pliant.bundle import Architecture
from pliant.bundle.plan import Plan
from pliant.elastify.submodel import slice_model
from pliant.elastify.tensors import GGUF_NAMES, interleave_rotary
from pliant.elastify.units import PROJECTIONS

Factors = Mapping[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
"""A [rank, in] and B [out, rank] by module (`model.layers.0.self_attn.q_proj`), or by tensor of
the GGUF file (`blk.0.attn_q.weight`)."""

_ADAPTER = "default"
_ROTATED = ("attn_q", "attn_k")


def adapt(model: Any, plan: Plan, *, rank: int, alpha: int, seed: int) -> Any:
    """What `plan` runs of a reordered transformers model, with new float32 factors to train.

    A is drawn from `seed`, B is 0: the result computes what the bare sub-model does. Frozen
    weights are views of `model`'s; parameters of `model` that are used whole stay frozen. Raises
    PlanError if the plan does not fit.
    """
    small = slice_model(model, plan)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=linear_names(small), bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = inject_adapter_in_model(config, small)
    for weight in trained_parameters(adapted).values():
        weight.data = weight.data.float()
    return adapted


def linear_names(small: Any) -> list[str]:
    """The elastic linear modules that a sub-model has; a layer's absent half has none."""
    names = [
        f"model.layers.{index}.{projection.name}"
        for index in range(len(small.model.layers))
        for projection in PROJECTIONS
    ]
    present = {name for name, _ in small.named_modules()}
    return [name for name in names if name in present]


def trained_parameters(adapted: Any) -> dict[str, torch.nn.Parameter]:
    """The factors by their names in the module."""
    return {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}


def factors_of(adapted: Any) -> Factors:
    """The trained factors by module, in float32."""
    factors = {}
    for name in linear_names(adapted):
        module = adapted.get_submodule(name)
        pair = (module.lora_A[_ADAPTER].weight, module.lora_B[_ADAPTER].weight)
        a, b = (np.array(weight.detach().cpu().numpy(), order="C") for weight in pair)
        factors[name] = (a, b)
    return factors


def gguf_factors(factors: Factors, architecture: Architecture) -> Factors:
    """The same by tensor of the GGUF file, with the rows in its order."""
    converted = {}
    for module, (a, b) in factors.items():
        index, _, projection = module.removeprefix("model.layers.").partition(".")
        part = GGUF_NAMES[projection]
        if part in _ROTATED and architecture.family.rope_order == "pairs":
            b = interleave_rotary(torch.from_numpy(b), architecture.head_dim).numpy()
        converted[f"blk.{index}.{part}.weight"] = (a, b)
    return converted
