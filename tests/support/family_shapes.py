"""Sizes of the families' tiny models, and plans of all kinds for them."""

from pliant.bundle import LayerPlan, Plan
from pliant.engine.engine import Engine

WINDOW = 48
# Layers: at least one of each kind (window and none, rotated and not).
SHAPE = {"hidden": 256, "heads": 8, "kv_heads": 4, "ff": 512, "context": 1024}
SIZES = (LayerPlan(4, 2, 512), LayerPlan(2, 2, 256), LayerPlan(3, 1, 32), LayerPlan(1, 2, 64))
GAPS = (LayerPlan(2, 1, 512), LayerPlan(0, 2, 256), LayerPlan(4, 2, 0), LayerPlan(1, 1, 32))
SPECIAL = {
    "smollm3": {"layers": 4},
    "gemma2": {"layers": 2, "window": WINDOW},
    "gemma3": {"layers": 6, "window": WINDOW, "head_dim": 64, "rope_scale": 8.0},
    "qwen3": {"head_dim": 64},
    "qwen2": {"tied": False},
    "phi3": {"rope_dim": 24},
}


def plan_of(layers: tuple[LayerPlan, ...], engine: Engine) -> Plan:
    return Plan(tuple(layers[i % len(layers)] for i in range(engine.architecture.num_layers)))
