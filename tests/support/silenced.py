"""A sub-model's independent reference: the full model with nothing in the other units."""

from pathlib import Path

import numpy as np

from pliant.bundle import Plan, open_bundle


def silence_other_units(source: Path, target: Path, plan: Plan) -> None:
    """Copy an F32 model with zeros in the o and down columns of units outside the plan."""
    target.write_bytes(source.read_bytes())
    bundle = open_bundle(source)
    a = bundle.architecture
    for index, layer in enumerate(plan.layers):
        keep = np.zeros((a.num_kv_heads, a.heads_per_kv, a.head_dim), dtype=bool)
        keep[: layer.kv_heads, : layer.heads_per_kv] = True
        for name, mask in (
            ("attn_output", keep.reshape(-1)),
            ("ffn_down", np.arange(a.ff) < layer.ff),
        ):
            info = bundle.gguf.tensors[f"blk.{index}.{name}.weight"]
            columns, rows = info.shape
            weights = np.memmap(
                target, dtype=np.float32, mode="r+", offset=info.offset, shape=(rows, columns)
            )
            weights[:, ~mask] = 0
            weights.flush()
