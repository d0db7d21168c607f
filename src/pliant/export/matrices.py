"""A level's matrices, cut out of the full model's, with the adapter merged into them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import Bundle, LayerPlan, Level, TensorInfo, weight_tensors
from pliant.ggml.quantize import dequantize, encode
from pliant.ggml.types import TYPE_SIZES, GgmlType, row_size

# At most so many values are decoded at a time.
_CHUNK = 1 << 22

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Cut:
    """The rows and columns of a tensor that a level runs, as (start, stop) in order."""

    rows: Ranges
    columns: Ranges

    @property
    def num_rows(self) -> int:
        return sum(stop - start for start, stop in self.rows)

    @property
    def num_columns(self) -> int:
        return sum(stop - start for start, stop in self.columns)


class LevelMatrices:
    """Reads tensors of a bundle as `level` runs them, a few rows at a time.

    Tensors go by the engine's names: parts of fused matrices are tensors of their own.
    """

    def __init__(self, bundle: Bundle, level: Level) -> None:
        self._bundle = bundle
        self._level = level
        self.tensors = weight_tensors(bundle.gguf, bundle.architecture)
        self._adapter = None if level.adapter is None else bundle.adapters[level.adapter]
        self._file = np.memmap(bundle.gguf.path, np.uint8, "r")

    def cut(self, name: str) -> Cut:
        """What the level runs of a tensor; a vector is one row."""
        info = self.tensors[name]
        whole = Cut(((0, _rows(info)),), ((0, _columns(info)),))
        parts = name.split(".")
        if parts[0] != "blk":
            return whole
        return self._cut_layer(parts[2], self._level.plan.layers[int(parts[1])], parts[3], whole)

    def values(self, name: str) -> Iterator[NDArray[np.float32]]:
        """float32 [rows, columns] of the cut, merged, in chunks of rows."""
        info, cut = self.tensors[name], self.cut(name)
        delta = self._delta(name)
        done = 0
        for raw in self._chunks(info, cut):
            values = dequantize(raw, info.type)
            chosen = np.concatenate([values[:, a:b] for a, b in cut.columns], axis=1)
            if delta is not None:
                a, b = delta
                chosen += b[done : done + len(chosen)] @ a
            done += len(chosen)
            yield chosen

    def encoded(self, name: str, type_: GgmlType) -> Iterator[NDArray[np.uint8]]:
        """The same as bytes of `type_`; what is not changed keeps its bytes."""
        info, cut = self.tensors[name], self.cut(name)
        block = TYPE_SIZES[info.type].block
        edges = [edge for pair in cut.columns for edge in pair]
        if type_ is info.type and self._delta(name) is None and not any(e % block for e in edges):
            spans = [(row_size(type_, a), row_size(type_, b)) for a, b in cut.columns]
            for raw in self._chunks(info, cut):
                yield np.concatenate([raw[:, a:b] for a, b in spans], axis=1)
            return
        for values in self.values(name):
            yield encode(values, type_)

    def _delta(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """A and scale * B of an adapted tensor."""
        if self._adapter is None or name not in self._adapter.names:
            return None
        a, b = self._adapter.factors(name)
        return a, b * np.float32(self._adapter.scale)

    def _chunks(self, info: TensorInfo, cut: Cut) -> Iterator[NDArray[np.uint8]]:
        """Whole rows as bytes."""
        data = self._file[info.offset : info.offset + info.nbytes].reshape(_rows(info), -1)
        step = max(1, _CHUNK // _columns(info))
        for start, stop in cut.rows:
            for first in range(start, stop, step):
                yield data[first : min(first + step, stop)]

    def _cut_layer(self, part: str, layer: LayerPlan, kind: str, whole: Cut) -> Cut:
        a = self._bundle.architecture
        group, width = a.heads_per_kv * a.head_dim, layer.heads_per_kv * a.head_dim
        starts = [g * group for g in range(layer.kv_heads)]
        query: Ranges = tuple((start, start + width) for start in starts)
        if width == group or not starts:
            query = ((0, layer.kv_heads * group),)
        key_value: Ranges = ((0, layer.kv_heads * a.head_dim),)
        units = {
            "attn_q": query,
            "attn_k": key_value,
            "attn_v": key_value,
            "attn_output": query,
            "ffn_gate": ((0, layer.ff),),
            "ffn_up": ((0, layer.ff),),
            "ffn_down": ((0, layer.ff),),
        }.get(part)
        if units is None:
            return whole
        if kind == "bias":
            return Cut(whole.rows, units) if part != "attn_output" else whole
        if part in ("attn_output", "ffn_down"):
            return Cut(whole.rows, units)
        return Cut(units, whole.columns)


def _rows(info: TensorInfo) -> int:
    return info.shape[1] if len(info.shape) > 1 else 1


def _columns(info: TensorInfo) -> int:
    return info.shape[0]
