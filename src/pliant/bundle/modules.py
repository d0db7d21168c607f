"""The seven linear modules of a layer: their names in a GGUF and their sizes at a plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pliant.bundle.architecture import Architecture
from pliant.bundle.plan import LayerPlan, Plan


@dataclass(frozen=True)
class Module:
    """A weight matrix as a sub-model runs it: `rows` outputs of `columns` inputs.

    `name` is the tensor's, e.g. 'blk.0.attn_q.weight'.
    """

    name: str
    columns: int
    rows: int


def modules(architecture: Architecture, plan: Plan) -> Iterator[Module]:
    """Every linear module that `plan` runs, layer by layer."""
    for index, layer in enumerate(plan.layers):
        yield from layer_modules(architecture, index, layer)


def layer_modules(architecture: Architecture, index: int, layer: LayerPlan) -> Iterator[Module]:
    """The modules of layer `index`; none of a half that does not run."""
    hidden = architecture.hidden_size
    query = layer.heads * architecture.head_dim
    key_value = layer.kv_heads * architecture.head_dim
    sizes: dict[str, tuple[int, int]] = {}
    if layer.kv_heads:
        sizes |= {
            "attn_q": (hidden, query),
            "attn_k": (hidden, key_value),
            "attn_v": (hidden, key_value),
            "attn_output": (query, hidden),
        }
    if layer.ff:
        sizes |= {
            "ffn_gate": (hidden, layer.ff),
            "ffn_up": (hidden, layer.ff),
            "ffn_down": (layer.ff, hidden),
        }
    for part, (columns, rows) in sizes.items():
        yield Module(f"blk.{index}.{part}.weight", columns, rows)
