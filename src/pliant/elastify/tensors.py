"""A model's weights as the tensors of a GGUF file: names, order of rows, fused or not.

As llama.cpp's converter (`conversion/` in its sources) writes each family.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from pliant.bundle.module_names import PROJECTION_MODULES, norm_modules
from pliant.bundle.plan import LayerPlan, Plan
from pliant.elastify.rope import llama3_factors
from pliant.elastify.source import SourceConfig
from pliant.elastify.submodel import prefix
from pliant.elastify.units import PROJECTIONS, Projection

NamedTensor = tuple[str, torch.Tensor]

GGUF_NAMES = {module: name for name, module in PROJECTION_MODULES.items()}
_FUSED = {"attn_qkv": ("attn_q", "attn_k", "attn_v"), "ffn_up": ("ffn_gate", "ffn_up")}


def model_tensors(model: Any, config: SourceConfig, plan: Plan | None) -> Iterator[NamedTensor]:
    """Every tensor of the whole model, or of what `plan` runs; matrices in rows, as in torch."""
    yield "token_embd.weight", model.model.embed_tokens.weight
    if not config.tied_embeddings:
        yield "output.weight", model.lm_head.weight
    yield "output_norm.weight", model.model.norm.weight.float() + config.family.norm_shift
    yield from _rope_factors(config)
    for index, block in enumerate(model.model.layers):
        layer = None if plan is None else plan.layers[index]
        tensors = dict(_layer_tensors(block, config, layer))
        if config.family.is_fused:
            tensors = _fuse(tensors)
        for name, tensor in tensors.items():
            yield f"blk.{index}.{name}", tensor


def interleave_rotary(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows of q or k from transformers' halves to pairs: row i and i + head_dim/2 adjoin."""
    rows, columns = weight.shape
    halves = weight.reshape(rows // head_dim, 2, head_dim // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)


def _layer_tensors(
    block: Any, config: SourceConfig, layer: LayerPlan | None
) -> Iterator[NamedTensor]:
    for name, module in norm_modules(config.family).items():
        if layer is None or layer.kv_heads or not name.startswith("attn"):
            weight = block.get_submodule(module).weight.float()
            yield f"{name}.weight", weight + config.family.norm_shift
    for projection in PROJECTIONS:
        linear, name = block.get_submodule(projection.name), GGUF_NAMES[projection.name]
        weight = _rows(linear.weight, projection, config, layer)
        if weight.numel():
            yield f"{name}.weight", weight
        if linear.bias is not None:
            yield f"{name}.bias", _rows(linear.bias[:, None], projection, config, layer)[:, 0]


def _rows(
    weight: torch.Tensor, projection: Projection, config: SourceConfig, layer: LayerPlan | None
) -> torch.Tensor:
    if layer is not None:
        weight = prefix(weight, projection, config, layer)
    is_rotated = projection.name in ("self_attn.q_proj", "self_attn.k_proj")
    if is_rotated and config.family.rope_order == "pairs":
        weight = interleave_rotary(weight, config.head_dim)
    return weight


def _fuse(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for whole, parts in _FUSED.items():
        rows = [tensors.pop(f"{part}.weight") for part in parts]
        tensors[f"{whole}.weight"] = torch.cat(rows)
    return tensors


def _rope_factors(config: SourceConfig) -> Iterator[NamedTensor]:
    scaling = config.rope_scaling
    if scaling is None:
        return
    if scaling.kind == "llama3":
        factors = llama3_factors(config.rope_base, config.head_dim, scaling)
        yield "rope_freqs.weight", torch.from_numpy(factors)
    if scaling.kind == "longrope":
        yield "rope_factors_long.weight", torch.tensor(scaling.long_factors)
        yield "rope_factors_short.weight", torch.tensor(scaling.short_factors)
