"""Make a bundle with random weights in the shape of Llama-3.2-1B, for speed and memory only."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import gguf
import numpy as np

from pliant.bundle import (
    Architecture,
    Bundle,
    GgufFile,
    LayerPlan,
    Level,
    Plan,
    adapter_file_name,
    cost_ratio,
    open_bundle,
    with_adapter,
    write_adapter,
    write_bundle,
)
from pliant.bundle.modules import modules
from pliant.ggml.quantize import quantize
from pliant.ggml.types import GgmlType

RATIOS = (0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FF_STEP = 256  # whole blocks of K-quants


@dataclass(frozen=True)
class Shape:
    """Dimensions of the model; the vocabulary is Llama 2's, as a share like a larger model's."""

    layers: int = 16
    hidden: int = 2048
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 64
    ff: int = 8192
    vocab: int = 32000
    context: int = 4096


LLAMA_1B = Shape()
# A quarter of the layers and of the vocabulary: the same shares, for the quick version.
LLAMA_QUICK = Shape(layers=4, vocab=8000)


def make_bundle(folder: Path, type_: GgmlType, shape: Shape, seed: int = 0) -> Bundle:
    """A bundle with the levels of RATIOS and 1.0; made once, then opened from `folder`."""
    path = folder / f"synthetic-{shape.layers}x{shape.hidden}-{type_.name}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as draft:
            model = Path(draft) / "model.gguf"
            _write_model(model, type_, shape, seed)
            architecture = Architecture.from_gguf(GgufFile.open(model))
            write_bundle(path, model, _levels(architecture), {"source": "random weights"})
    return open_bundle(path)


def make_adapted_bundle(folder: Path, type_: GgmlType, shape: Shape, rank: int) -> Bundle:
    """The same model, with a random F16 adapter for every level below 1.0."""
    bare = make_bundle(folder, type_, shape)
    path = folder / f"{bare.name}-rank{rank}"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as draft:
            levels, files = [], {}
            for level in bare.levels[:-1]:
                name = adapter_file_name(level.ratio)
                files[name] = Path(draft) / name
                factors = _factors(bare.architecture, level.plan, rank)
                adapter = write_adapter(files[name], bare.architecture.name, factors, rank, "F16")
                levels.append(with_adapter(bare.architecture, level, name, adapter))
            levels.append(bare.levels[-1])
            write_bundle(path, bare.gguf.path, levels, {"source": "random weights"}, files)
    return open_bundle(path)


def _factors(
    architecture: Architecture, plan: Plan, rank: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)

    def random(rows: int, columns: int) -> np.ndarray:
        return rng.standard_normal((rows, columns), dtype=np.float32) / np.float32(columns**0.5)

    return {
        module.name: (random(rank, module.columns), random(module.rows, rank))
        for module in modules(architecture, plan)
    }


def _write_model(path: Path, type_: GgmlType, shape: Shape, seed: int) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(shape.vocab)
    writer.add_tokenizer_model("no_vocab")
    query, key_value = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    matrices = {
        "attn_q": (query, shape.hidden),
        "attn_k": (key_value, shape.hidden),
        "attn_v": (key_value, shape.hidden),
        "attn_output": (shape.hidden, query),
        "ffn_gate": (shape.ff, shape.hidden),
        "ffn_up": (shape.ff, shape.hidden),
        "ffn_down": (shape.hidden, shape.ff),
    }
    rng = np.random.default_rng(seed)
    # The same values in every layer: they need not differ to be read from other memory.
    layer = {name: _random(rng, size, type_) for name, size in matrices.items()}
    norm = np.ones(shape.hidden, dtype=np.float32)
    kind = gguf.GGMLQuantizationType(int(type_))
    for name in ("token_embd", "output"):
        data = _random(rng, (shape.vocab, shape.hidden), type_)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
    writer.add_tensor("output_norm.weight", norm)
    for index in range(shape.layers):
        for name, data in layer.items():
            writer.add_tensor(f"blk.{index}.{name}.weight", data, raw_dtype=kind)
        writer.add_tensor(f"blk.{index}.attn_norm.weight", norm)
        writer.add_tensor(f"blk.{index}.ffn_norm.weight", norm)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _random(rng: np.random.Generator, size: tuple[int, int], type_: GgmlType) -> np.ndarray:
    scale = np.float32(1 / np.sqrt(size[1]))
    return quantize(rng.standard_normal(size, dtype=np.float32) * scale, type_)


def _levels(architecture: Architecture) -> list[Level]:
    """Per ratio the widest plan, alike in every layer, whose honest cost is within it."""
    levels = [Level(1.0, Plan.full(architecture), 1.0)]
    for ratio in reversed(RATIOS):
        plan = _widest(architecture, ratio)
        levels.append(Level(ratio, plan, cost_ratio(architecture, plan)))
    return levels[::-1]


def _widest(architecture: Architecture, ratio: float) -> Plan:
    best: tuple[float, Plan] | None = None
    heads = range(1, architecture.num_kv_heads + 1)
    widths = range(FF_STEP, architecture.ff + 1, FF_STEP)
    for kv_heads, ff in product(heads, widths):
        plan = Plan((LayerPlan(kv_heads, architecture.heads_per_kv, ff),) * architecture.num_layers)
        cost = cost_ratio(architecture, plan)
        imbalance = abs(kv_heads / architecture.num_kv_heads - ff / architecture.ff)
        score = cost - imbalance
        if cost <= ratio and (best is None or score > best[0]):
            best = (score, plan)
    assert best is not None
    return best[1]
