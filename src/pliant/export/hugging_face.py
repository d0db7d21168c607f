"""A level as a Hugging Face folder that stock transformers loads.

Plans alike in all layers get their own sizes. In others every layer keeps the full model's sizes,
with zeros for the units that the level drops: what is computed is the same, what it costs is not.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import Architecture, Bundle, Level, Plan
from pliant.bundle.module_names import PROJECTION_MODULES, norm_modules
from pliant.bundle.tensors import LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS
from pliant.errors import BundleError
from pliant.export.hugging_face_config import has_own_sizes, model_config
from pliant.export.matrices import Cut, LevelMatrices, Ranges
from pliant.export.safetensors import write_f16

MODEL_FILE = "model.safetensors"
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
_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_COMPUTED = (ROPE_FACTORS, SHORT_FACTORS, LONG_FACTORS)
_ROTATED = ("attn_q", "attn_k")
_FUSED = {
    "attn_q": "self_attn.qkv_proj",
    "attn_k": "self_attn.qkv_proj",
    "attn_v": "self_attn.qkv_proj",
    "ffn_gate": "mlp.gate_up_proj",
    "ffn_up": "mlp.gate_up_proj",
}


@dataclass(frozen=True)
class _Part:
    """Which of its rows and columns the level's values of `source` fill.

    `is_rotated`: rows of q or k whose heads are in the order of llama.cpp's rotation. `shift` is
    taken off every value.
    """

    source: str
    rows: int
    columns: int
    place: Cut
    is_rotated: bool
    shift: float

    @property
    def is_as_read(self) -> bool:
        sizes = self.place.num_rows, self.place.num_columns
        return not self.is_rotated and sizes == (self.rows, self.columns)


@dataclass(frozen=True)
class _Target:
    """A tensor of the folder: its parts, rows behind rows."""

    name: str
    is_matrix: bool
    parts: tuple[_Part, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        columns = self.parts[0].columns
        return (sum(part.rows for part in self.parts), columns) if self.is_matrix else (columns,)


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
    they say. Raises UnsupportedModelError for rotary factors it has no configuration for,
    BundleError if the folder exists and not `force`, or cannot be written.
    """
    folder = Path(folder).absolute()
    config = model_config(bundle, level.plan)
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
    return folder, _notes(bundle, level.plan, bool(files))


def _notes(bundle: Bundle, plan: Plan, has_tokenizer: bool) -> list[str]:
    notes = []
    if not has_own_sizes(bundle.architecture, plan):
        why = "layers differ in size" if len(set(plan.layers)) > 1 else "sizes are none it knows"
        notes.append(
            f"the level's {why}: every layer has the full sizes, with zeros for "
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


def _write_weights(path: Path, bundle: Bundle, level: Level) -> None:
    a, matrices = bundle.architecture, LevelMatrices(bundle, level)
    own_sizes = has_own_sizes(a, level.plan)
    targets = []
    for name, sources in _sources(a, matrices).items():
        parts = tuple(_part(a, matrices, source, own_sizes) for source in sources)
        targets.append(_Target(name, _is_matrix(matrices, sources[0]), parts))
    shapes = {target.name: target.shape for target in targets}
    data = (
        chain.from_iterable(_values(a, matrices, part) for part in target.parts)
        for target in targets
    )
    write_f16(path, shapes, data)


def _sources(a: Architecture, matrices: LevelMatrices) -> dict[str, list[str]]:
    """transformers' names of tensors, and what each is made of."""
    modules = PROJECTION_MODULES | norm_modules(a.family) | (_FUSED if a.family.is_fused else {})
    order = list(modules)
    found: dict[str, list[str]] = {}
    for source in matrices.tensors:
        if source in _OUTER:
            found[_OUTER[source]] = [source]
        elif source not in _COMPUTED:
            _, index, part, kind = source.split(".")
            found.setdefault(f"model.layers.{index}.{modules[part]}.{kind}", []).append(source)
    for sources in found.values():
        if len(sources) > 1:
            sources.sort(key=lambda source: order.index(source.split(".")[2]))
    return found


def _part(a: Architecture, matrices: LevelMatrices, source: str, own_sizes: bool) -> _Part:
    cut = matrices.cut(source)
    rows, columns = cut.num_rows, cut.num_columns
    place = Cut(((0, rows),), ((0, columns),))
    is_matrix = _is_matrix(matrices, source)
    if not own_sizes:
        shape = matrices.tensors[source].shape
        rows, columns = shape[1] if is_matrix else 1, shape[0]
        place = cut
    part = source.split(".")[2] if source.startswith("blk.") else ""
    is_rotated = part in _ROTATED and a.family.rope_order == "pairs"
    is_norm = source.endswith("norm.weight")
    return _Part(source, rows, columns, place, is_rotated, a.family.norm_shift if is_norm else 0.0)


def _is_matrix(matrices: LevelMatrices, source: str) -> bool:
    return len(matrices.tensors[source].shape) > 1


def _values(a: Architecture, matrices: LevelMatrices, part: _Part) -> Iterator[NDArray[np.float32]]:
    pieces = matrices.values(part.source)
    if part.is_as_read:
        for values in pieces:
            yield values - np.float32(part.shift)
        return
    filled = np.zeros((part.rows, part.columns), dtype=np.float32)
    rows, columns = (_indices(ranges) for ranges in (part.place.rows, part.place.columns))
    done = 0
    for values in pieces:
        filled[np.ix_(rows[done : done + len(values)], columns)] = values
        done += len(values)
    yield _halves(filled, a.head_dim) if part.is_rotated else filled


def _indices(ranges: Ranges) -> NDArray[np.intp]:
    return np.concatenate([np.arange(start, stop) for start, stop in ranges])


def _halves(values: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Rows of q or k from pairs that turn together to transformers' halves."""
    rows, columns = values.shape
    pairs = values.reshape(rows // head_dim, head_dim // 2, 2, columns)
    return pairs.transpose(0, 2, 1, 3).reshape(rows, columns)
