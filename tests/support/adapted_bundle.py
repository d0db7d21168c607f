"""A tiny model with levels that have adapters."""

from pathlib import Path

from pliant.bundle import (
    Bundle,
    LayerPlan,
    Level,
    Plan,
    cost_ratio,
    open_bundle,
    with_adapter,
    write_bundle,
)
from support.adapters import make_adapter
from support.tiny_gguf import make_tiny_gguf

SMALL = Plan((LayerPlan(1, 2, 256), LayerPlan(2, 1, 512), LayerPlan(2, 2, 256)))
WIDE = Plan((LayerPlan(3, 2, 512), LayerPlan(2, 2, 768), LayerPlan(4, 2, 512)))


def adapted_bundle(folder: Path, type_: str, quantization: str = "F16", **shape: int) -> Bundle:
    """Three layers of F32 or quantized weights, with adapters at levels 0.3 and 0.6."""
    sizes = {"layers": 3, "hidden": 256, "heads": 8, "kv_heads": 4, "head_dim": 128, "ff": 1024}
    folder.mkdir(exist_ok=True)
    model = make_tiny_gguf(folder / f"{type_}.gguf", type=type_, **sizes | shape)
    architecture = open_bundle(model).architecture
    levels, files = [], {}
    for ratio, plan in ((0.3, SMALL), (0.6, WIDE)):
        name = f"adapter-{ratio}.gguf"
        files[name] = folder / name
        adapter = make_adapter(files[name], architecture, plan, quantization, seed=int(10 * ratio))
        levels.append(with_adapter(architecture, Level(ratio, plan, 0.0), name, adapter))
    full = Plan.full(architecture)
    levels.append(Level(1.0, full, cost_ratio(architecture, full)))
    return write_bundle(folder / f"{type_}-{quantization}", model, levels, {}, files)
