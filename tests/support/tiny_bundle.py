"""Make a small random bundle with a few levels."""

from pathlib import Path
from typing import Any

from pliant.bundle import Bundle, LayerPlan, Level, Plan, cost_ratio, open_bundle, write_bundle
from support.tiny_gguf import make_tiny_gguf

RATIOS = (0.3, 0.5, 1.0)


def make_tiny_bundle(folder: Path, **shape: Any) -> Bundle:
    """A bundle at `folder` with levels RATIOS; `shape` as `make_tiny_gguf` takes it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_suffix(".gguf")
    make_tiny_gguf(draft, **shape)
    architecture = open_bundle(draft).architecture
    levels = []
    for ratio in RATIOS:
        plan = Plan.full(architecture)
        if ratio < 1.0:
            layer = plan.layers[0]
            kv_heads = max(1, round(layer.kv_heads * ratio))
            ff = max(32, round(layer.ff * ratio / 32) * 32)
            plan = Plan((LayerPlan(kv_heads, layer.heads_per_kv, ff),) * len(plan.layers))
        levels.append(Level(ratio, plan, cost_ratio(architecture, plan)))
    bundle = write_bundle(folder, draft, levels, {"tool": "tests"})
    draft.unlink()
    return bundle
