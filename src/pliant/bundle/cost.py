"""What a decoded token costs: multiply-adds, counted from the plan's dimensions.

The share of the full model's cost is the honest size of a level: output head and attention
included, so a small model with a big vocabulary shows the floor it cannot get below.
"""

from pliant.bundle.architecture import Architecture
from pliant.bundle.plan import LayerPlan, Plan

REFERENCE_CONTEXT = 512


def per_token_cost(
    architecture: Architecture,
    plan: Plan,
    *,
    context: int = REFERENCE_CONTEXT,
    lora_rank: int = 0,
) -> int:
    """Multiply-adds of one decode step over `context` cached tokens, output head included."""
    head = architecture.hidden_size * architecture.vocab_size
    return head + sum(_layer_cost(architecture, layer, context, lora_rank) for layer in plan.layers)


def cost_ratio(
    architecture: Architecture,
    plan: Plan,
    *,
    context: int = REFERENCE_CONTEXT,
    lora_rank: int = 0,
) -> float:
    """Cost of `plan` as a share of the full model's (which has no adapter)."""
    full = per_token_cost(architecture, Plan.full(architecture), context=context)
    return per_token_cost(architecture, plan, context=context, lora_rank=lora_rank) / full


def _layer_cost(architecture: Architecture, layer: LayerPlan, context: int, lora_rank: int) -> int:
    hidden = architecture.hidden_size
    query = layer.heads * architecture.head_dim
    key_value = layer.kv_heads * architecture.head_dim
    # (rows, columns) of q, k, v, o and gate, up, down; an absent half has none.
    modules = []
    if query:
        modules += [(query, hidden), (key_value, hidden), (key_value, hidden), (hidden, query)]
    if layer.ff:
        modules += [(layer.ff, hidden), (layer.ff, hidden), (hidden, layer.ff)]
    weights = sum(rows * columns for rows, columns in modules)
    adapter = lora_rank * sum(rows + columns for rows, columns in modules)
    return weights + adapter + 2 * context * query
