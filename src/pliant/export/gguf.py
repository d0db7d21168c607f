"""A level as a stand-alone GGUF that llama.cpp and what is built on it run without pliant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from pliant.bundle import Architecture, Bundle, Level
from pliant.bundle.gguf_writer import MetadataValue, TensorData, TensorSpec, write_gguf
from pliant.errors import BundleError, PlanError, RequestError
from pliant.export.matrices import LevelMatrices
from pliant.ggml.types import TYPE_SIZES, GgmlType

# general.file_type (enum llama_ftype), for people and tools that list models.
_FILE_TYPES = {
    GgmlType.F32: 0,
    GgmlType.F16: 1,
    GgmlType.Q4_0: 2,
    GgmlType.Q8_0: 7,
    GgmlType.Q4_K: 14,
    GgmlType.Q5_K: 16,
    GgmlType.Q6_K: 18,
}
QUANTIZATIONS = tuple(type_.name for type_ in _FILE_TYPES)

# The architecture for which llama.cpp reads sizes per layer; it computes what `llama` does.
_PER_LAYER = {"llama": "deci"}
# llama.cpp loads these only if the query heads together are as wide as the hidden state.
_ALL_HEADS = frozenset({"qwen2", "phi3"})
_FUSED = {"attn_qkv": ("attn_q", "attn_k", "attn_v"), "ffn_up": ("ffn_gate", "ffn_up")}


@dataclass(frozen=True)
class _Entry:
    """A tensor of the file, and the tensors (rows behind rows) that it is made of."""

    spec: TensorSpec
    sources: tuple[str, ...]


def export_gguf(
    bundle: Bundle,
    level: Level,
    path: str | Path,
    *,
    quantization: str | None = None,
    force: bool = False,
) -> Path:
    """Write `level`, its adapter merged in, to `path`; returns it.

    Every matrix keeps its type, or becomes `quantization` (one of QUANTIZATIONS; the output matrix
    at least Q8_0); one whose rows are then not whole blocks becomes F16. A plan alike in all layers
    stays in its architecture; others become `deci`, which llama.cpp has for Llama-type models only.

    Raises PlanError for a plan that llama.cpp has no way to run, RequestError for an unknown
    quantization, BundleError if `path` exists and not `force`, is a file of the bundle, or cannot
    be written.
    """
    path = Path(path)
    type_ = _target_type(quantization)
    name = _architecture_name(bundle.architecture, level)
    _check_free(path, bundle, force)
    matrices = LevelMatrices(bundle, level)
    entries = list(_entries(bundle, level, matrices, type_))
    metadata = _metadata(bundle, level, name, type_)
    data = (_data(matrices, entry) for entry in entries)
    write_gguf(path, metadata, [entry.spec for entry in entries], data)
    return path


def _check_free(path: Path, bundle: Bundle, force: bool) -> None:
    if not path.exists():
        return
    if not force:
        raise BundleError(f"{path} exists; choose another name or overwrite it with --force")
    own = bundle.gguf, *(adapter.gguf for adapter in bundle.adapters.values())
    if any(path.samefile(file.path) for file in own):
        raise BundleError(f"{path} is a part of the bundle itself; choose another name")


def _target_type(quantization: str | None) -> GgmlType | None:
    if quantization is None:
        return None
    if quantization not in QUANTIZATIONS:
        known = ", ".join(QUANTIZATIONS)
        raise RequestError(f"quantization {quantization!r} is not one of {known}")
    return GgmlType[quantization]


def _architecture_name(architecture: Architecture, level: Level) -> str:
    """Raises PlanError if llama.cpp cannot run the plan."""
    layers = level.plan.layers
    if layers[0].kv_heads == 0 or any(layer.ff == 0 for layer in layers):
        raise PlanError(
            f"level {level.ratio:g} has a first layer without attention or a layer without MLP; "
            "llama.cpp cannot run that"
        )
    if len(set(layers)) == 1:
        width = layers[0].heads * architecture.head_dim
        if architecture.name in _ALL_HEADS and width != architecture.hidden_size:
            raise PlanError(
                f"level {level.ratio:g} drops attention heads, and llama.cpp loads "
                f"{architecture.name} models only with all of them: write it with --format hf"
            )
        return architecture.name
    per_layer = _PER_LAYER.get(architecture.name)
    if per_layer is None:
        known, uniform = ", ".join(_PER_LAYER), ""
        if architecture.name not in _ALL_HEADS:
            uniform = ", or make the bundle with --plan uniform --anchors 0"
        raise PlanError(
            f"the layers of level {level.ratio:g} differ in size, and llama.cpp reads sizes per "
            f"layer only for {known} models, not for {architecture.name}: write it with "
            f"--format hf{uniform}"
        )
    return per_layer


def _metadata(
    bundle: Bundle, level: Level, name: str, type_: GgmlType | None
) -> dict[str, MetadataValue]:
    a, layers = bundle.architecture, level.plan.layers
    old = f"{a.name}."
    found: dict[str, MetadataValue] = {}
    for key, value in bundle.gguf.metadata.items():
        found[f"{name}.{key.removeprefix(old)}" if key.startswith(old) else key] = value
    sizes = {
        "attention.head_count": [layer.heads for layer in layers],
        "attention.head_count_kv": [layer.kv_heads for layer in layers],
        "feed_forward_length": [layer.ff for layer in layers],
    }
    for key, values in sizes.items():
        is_uniform = name == a.name
        found[f"{name}.{key}"] = values[0] if is_uniform else np.array(values, np.uint32)
    # Without these llama.cpp divides the hidden size by the number of heads.
    for key in ("attention.key_length", "attention.value_length"):
        found[f"{name}.{key}"] = a.head_dim
    found[f"{name}.rope.dimension_count"] = a.rope_dim
    found |= {"general.architecture": name, "general.name": f"{bundle.name}-{level.ratio:g}"}
    if type_ is not None:
        found |= {"general.file_type": _FILE_TYPES[type_], "general.quantization_version": 2}
    found.pop("general.alignment", None)
    return found


def _entries(
    bundle: Bundle, level: Level, matrices: LevelMatrices, type_: GgmlType | None
) -> Iterator[_Entry]:
    for name, info in bundle.gguf.tensors.items():
        if not _runs(name, level):
            continue
        sources = _sources(name, bundle)
        cuts = [matrices.cut(source) for source in sources]
        columns, rows = cuts[0].num_columns, sum(cut.num_rows for cut in cuts)
        shape = (columns, rows) if len(info.shape) > 1 else (columns,)
        target = _stored_type(bundle.architecture, name, info.type, type_, shape)
        yield _Entry(TensorSpec(name, shape, target), sources)


def _runs(name: str, level: Level) -> bool:
    """Whether the level runs a tensor; llama.cpp wants the MLP's norm in every layer."""
    parts = name.split(".")
    if parts[0] != "blk" or not parts[2].startswith(("attn", "post_attention")):
        return True
    return level.plan.layers[int(parts[1])].kv_heads > 0


def _sources(name: str, bundle: Bundle) -> tuple[str, ...]:
    """The parts of a fused matrix, or the tensor itself."""
    layer, _, part = name.removesuffix(".weight").rpartition(".")
    parts = _FUSED.get(part) if bundle.architecture.family.is_fused else None
    return (name,) if parts is None else tuple(f"{layer}.{each}.weight" for each in parts)


def _stored_type(
    architecture: Architecture,
    name: str,
    source: GgmlType,
    target: GgmlType | None,
    shape: tuple[int, ...],
) -> GgmlType:
    if len(shape) == 1:
        return source
    chosen = source if target is None else target
    output = "token_embd.weight" if architecture.tied_embeddings else "output.weight"
    if target is not None and name == output and TYPE_SIZES[target].block > 1:
        chosen = GgmlType.Q8_0
    return chosen if shape[0] % TYPE_SIZES[chosen].block == 0 else GgmlType.F16


def _data(matrices: LevelMatrices, entry: _Entry) -> Iterator[TensorData]:
    parts = (matrices.encoded(name, entry.spec.type) for name in entry.sources)
    return chain.from_iterable(parts)
