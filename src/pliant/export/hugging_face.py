"""A level as a Hugging Face folder that stock transformers loads.

Uniform plans get their own sizes. In others every layer keeps the full model's sizes, with zeros
for the units that the level drops: what is computed is the same, what it costs is not.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import Architecture, Bundle, Level, Plan
from pliant.errors import BundleError, UnsupportedModelError
from pliant.export.matrices import Cut, LevelMatrices, Ranges
from pliant.export.safetensors import write_f16

MODEL_FILE = "model.safetensors"
_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROTATED = ("attn_q", "attn_k")


@dataclass(frozen=True)
class _Target:
    """A tensor of the folder: which of its rows and columns the level's values of `source` fill.

    `is_rotated`: rows of q or k whose heads are in the order of llama.cpp's rotation.
    """

    name: str
    source: str
    rows: int
    columns: int
    is_matrix: bool
    place: Cut
    is_rotated: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, self.columns) if self.is_matrix else (self.columns,)

    @property
    def is_as_read(self) -> bool:
        sizes = self.place.num_rows, self.place.num_columns
        return not self.is_rotated and sizes == (self.rows, self.columns)


def export_hugging_face(
    bundle: Bundle,
    level: Level,
    folder: str | Path,
    *,
    tokenizer: str | Path | None = None,
    force: bool = False,
) -> tuple[Path, list[str]]:
    """Write `level`, its adapter merged in, as F16; returns the folder and what to know of it.

    `tokenizer` is a folder whose tokenizer files are copied: a GGUF does not hold all of what
    they say. Raises UnsupportedModelError for families and rotary factors it has no configuration
    for, BundleError if the folder exists and not `force`, or cannot be written.
    """
    folder = Path(folder).absolute()
    config = _config(bundle, level.plan)
    files = _tokenizer_files(tokenizer)
    if folder.exists() and not force:
        raise BundleError(f"{folder} exists; choose another name or overwrite it with --force")
    if folder.exists() and not (folder / "config.json").is_file():
        raise BundleError(f"{folder} is not a model folder; it is not overwritten")
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.new")
    try:
        draft.mkdir()
        _write_weights(draft / MODEL_FILE, bundle, level)
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for file in files:
            shutil.copyfile(file, draft / file.name)
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    except OSError as error:
        raise BundleError(f"cannot write {folder}: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder, _notes(level.plan, bool(files))


def _notes(plan: Plan, has_tokenizer: bool) -> list[str]:
    notes = []
    if not _is_uniform(plan):
        notes.append(
            "the level's layers differ in size: every layer has the full sizes, with zeros for "
            "dropped units (right for quality, not for speed)"
        )
    if not has_tokenizer:
        notes.append("no tokenizer: copy the original model's, or give its folder as --tokenizer")
    return notes


def _tokenizer_files(folder: str | Path | None) -> list[Path]:
    if folder is None:
        return []
    files = [Path(folder) / name for name in _TOKENIZER_FILES]
    files = [path for path in files if path.is_file()]
    if not any(path.name in ("tokenizer.json", "tokenizer.model") for path in files):
        raise BundleError(f"{folder} has no tokenizer (tokenizer.json or tokenizer.model)")
    return files


def _is_uniform(plan: Plan) -> bool:
    first = plan.layers[0]
    return len(set(plan.layers)) == 1 and first.kv_heads > 0 and first.ff > 0


def _config(bundle: Bundle, plan: Plan) -> dict[str, Any]:
    a = bundle.architecture
    if a.name not in _CLASSES:
        raise UnsupportedModelError(
            f"no Hugging Face configuration for {a.name} models; there are those of "
            f"{', '.join(_CLASSES)}"
        )
    layer = (plan if _is_uniform(plan) else Plan.full(a)).layers[0]
    metadata = bundle.gguf.metadata
    tokens = {
        f"{name}_token_id": metadata.get(f"tokenizer.ggml.{name}_token_id")
        for name in ("bos", "eos")
    }
    return {
        "architectures": [_CLASSES[a.name]],
        "model_type": a.name,
        "hidden_size": a.hidden_size,
        "num_hidden_layers": a.num_layers,
        "num_attention_heads": layer.heads,
        "num_key_value_heads": layer.kv_heads,
        "head_dim": a.head_dim,
        "intermediate_size": layer.ff,
        "hidden_act": "silu",
        "vocab_size": a.vocab_size,
        "max_position_embeddings": a.context_length,
        "rms_norm_eps": a.rms_eps,
        "rope_theta": a.rope_base,
        "rope_scaling": _rope_scaling(bundle),
        "tie_word_embeddings": a.tied_embeddings,
        "torch_dtype": "float16",
        **tokens,
    }


def _rope_scaling(bundle: Bundle) -> dict[str, Any] | None:
    a = bundle.architecture
    if a.rope_dim != a.head_dim:
        raise UnsupportedModelError("heads that rotate in part have no Hugging Face configuration")
    if a.rope_scaling_type == "linear":
        return {"rope_type": "linear", "factor": a.rope_scaling_factor}
    if not a.has_rope_factors:
        return None
    provenance = {} if bundle.manifest is None else bundle.manifest.provenance
    source = provenance.get("source")
    scaling = source.get("rope_scaling") if isinstance(source, Mapping) else None
    if not isinstance(scaling, Mapping) or scaling.get("kind") != "llama3":
        raise UnsupportedModelError(
            f"{bundle.name} has rotary factors, and its provenance does not say what they were "
            "made from; a Hugging Face configuration needs that"
        )
    keys = ("factor", "low_freq_factor", "high_freq_factor")
    found = {"rope_type": "llama3", **{key: scaling.get(key) for key in keys}}
    return found | {"original_max_position_embeddings": scaling.get("original_context")}


def _write_weights(path: Path, bundle: Bundle, level: Level) -> None:
    matrices = LevelMatrices(bundle, level)
    targets = list(_targets(bundle.architecture, level.plan, matrices))
    shapes = {target.name: target.shape for target in targets}
    write_f16(path, shapes, (_values(bundle.architecture, matrices, each) for each in targets))


def _targets(a: Architecture, plan: Plan, matrices: LevelMatrices) -> Iterator[_Target]:
    uniform = _is_uniform(plan)
    for source, info in matrices.tensors.items():
        name = _name(source)
        if name is None:
            continue
        cut = matrices.cut(source)
        rows, columns = cut.num_rows, cut.num_columns
        place = Cut(((0, rows),), ((0, columns),))
        is_matrix = len(info.shape) > 1
        if not uniform:
            rows, columns = info.shape[1] if is_matrix else 1, info.shape[0]
            place = cut
        part = source.split(".")[2] if source.startswith("blk.") else ""
        is_rotated = part in _ROTATED and a.family.rope_order == "pairs"
        yield _Target(name, source, rows, columns, is_matrix, place, is_rotated)


def _name(source: str) -> str | None:
    """transformers' name of a tensor; None for what it computes itself."""
    if source == "rope_freqs.weight":
        return None
    outer = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    if source in outer:
        return outer[source]
    _, index, part, kind = source.split(".")
    return f"model.layers.{index}.{_NAMES[part]}.{kind}"


def _values(
    a: Architecture, matrices: LevelMatrices, target: _Target
) -> Iterator[NDArray[np.float32]]:
    pieces = matrices.values(target.source)
    if target.is_as_read:
        yield from pieces
        return
    filled = np.zeros((target.rows, target.columns), dtype=np.float32)
    rows, columns = (_indices(ranges) for ranges in (target.place.rows, target.place.columns))
    done = 0
    for values in pieces:
        filled[np.ix_(rows[done : done + len(values)], columns)] = values
        done += len(values)
    yield _halves(filled, a.head_dim) if target.is_rotated else filled


def _indices(ranges: Ranges) -> NDArray[np.intp]:
    return np.concatenate([np.arange(start, stop) for start, stop in ranges])


def _halves(values: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Rows of q or k from pairs that turn together to transformers' halves."""
    rows, columns = values.shape
    pairs = values.reshape(rows // head_dim, head_dim // 2, 2, columns)
    return pairs.transpose(0, 2, 1, 3).reshape(rows, columns)
