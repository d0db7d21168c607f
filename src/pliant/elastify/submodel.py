"""A plan as a stand-alone transformers model: the independent reference for every level."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch

from pliant.bundle.plan import LayerPlan, Plan
from pliant.elastify.source import SourceConfig, config_of
from pliant.elastify.units import PROJECTIONS, Projection, split_units
from pliant.errors import PlanError


def slice_model(model: Any, plan: Plan) -> Any:
    """A model with only the units that `plan` runs; embeddings and norms are shared with `model`.

    `model` is a reordered transformers model in float32, as `load_model` returns it. Call the
    result with `use_cache=False` or the default cache. Raises PlanError if the plan does not fit.
    """
    config = config_of(model.config)
    if len(plan.layers) != config.num_layers:
        raise PlanError(f"the plan has {len(plan.layers)} layers, the model {config.num_layers}")
    # Parameters in the memo are taken over as they are, so only modules are copied.
    shared = {id(parameter): parameter for parameter in model.parameters()}
    small = copy.deepcopy(model, shared)
    for block, layer in zip(small.model.layers, plan.layers, strict=True):
        _slice_layer(block, config, layer)
    return small


def prefix(
    matrix: torch.Tensor, projection: Projection, config: SourceConfig, layer: LayerPlan
) -> torch.Tensor:
    """The part of a projection's weight that `layer` runs; a view where it can be one.

    A bias is cut as a matrix of one column.
    """
    if projection.kind == "neurons":
        return matrix.narrow(projection.axis, 0, layer.ff)
    units = split_units(matrix, projection.axis, config.num_kv_heads)
    units = units.narrow(projection.axis, 0, layer.kv_heads)
    if projection.name in ("self_attn.q_proj", "self_attn.o_proj"):
        units = units.narrow(projection.axis + 1, 0, layer.heads_per_kv * config.head_dim)
    if projection.axis == 0:
        return units.reshape(-1, matrix.shape[1])
    return units.reshape(matrix.shape[0], -1)


@torch.no_grad()
def _slice_layer(block: Any, config: SourceConfig, layer: LayerPlan) -> None:
    for projection in PROJECTIONS:
        linear = block.get_submodule(projection.name)
        weight = prefix(linear.weight, projection, config, layer)
        linear.out_features, linear.in_features = weight.shape
        linear.weight = torch.nn.Parameter(weight)
        if linear.bias is not None and projection.axis == 0:
            bias = prefix(linear.bias[:, None], projection, config, layer)
            linear.bias = torch.nn.Parameter(bias[:, 0])
    block.self_attn.num_key_value_groups = layer.heads_per_kv
    if layer.kv_heads == 0:
        block.self_attn = NoAttention()
    if layer.ff == 0:
        block.mlp = NoMlp()


class NoAttention(torch.nn.Module):
    """Stands for the attention of a layer that has none."""

    def forward(self, hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        return torch.zeros_like(hidden_states), None


class NoMlp(torch.nn.Module):
    """Stands for the MLP of a layer that has none."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(hidden_states)


@torch.no_grad()
def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Float32 [batch, tokens, vocabulary] of a model for int64 [batch, tokens]."""
    found = model(input_ids=tokens.to(model.device), use_cache=False).logits
    return cast(torch.Tensor, found.float().cpu())
