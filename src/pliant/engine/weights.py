"""The model's weights in memory, and products with any prefix of them.

The file is mmapped once. A sub-model uses the first rows of q, k, v, gate and up, and the first
columns of o and down, as views. Beside the mapped file there may be faster copies: rearranged by
ggml ("repacked"), and for o and down cut into column segments, since a column prefix of a
repacked matrix cannot be a view and one of a plain matrix is read in short strides.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np

from pliant.bundle import Architecture, Bundle, Level, weight_tensors
from pliant.engine.copies import Copies, Segment
from pliant.engine.layout import LayoutPolicy
from pliant.engine.views import Views
from pliant.errors import PlanError
from pliant.ggml.context import Context
from pliant.ggml.memory import Buffer, can_repack
from pliant.ggml.tensor import Tensor
from pliant.ggml.types import TYPE_SIZES, row_size

ROW_MATRICES = ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")
COLUMN_MATRICES = ("attn_output", "ffn_down")
MAX_SEGMENTS = 12


@dataclass(frozen=True)
class Matrix:
    """A weight matrix [columns, rows]: the mapped tensor, and its faster copy if there is one.

    `plain_from`: batches of at least so many tokens use the mapped tensor.
    """

    name: str
    plain: Tensor
    views: Views
    segments: tuple[Segment, ...] = ()
    plain_from: int | None = None

    def multiply(
        self, c: Context, x: Tensor, rows: int, *, first_row: int = 0, first_column: int = 0
    ) -> Tensor:
        """Product [rows, n] of `rows` rows and as many columns as x [columns, n] has.

        Raises PlanError if the columns do not fall on the weight type's blocks.
        """
        columns, tokens = x.shape[:2]
        if first_row or first_column:
            self._check_columns(columns, first_column)
            weight = self._plain_view(columns, rows, first_row, first_column)
            return c.mul_mat(weight, x)
        return self.multiply_parts(c, columns, tokens, rows, partial(_columns, c, x))

    def multiply_parts(
        self, c: Context, columns: int, tokens: int, rows: int, part: Callable[[int, int], Tensor]
    ) -> Tensor:
        """The same for activations [columns, tokens] that `part(start, stop)` makes piecewise.

        Every piece must be contiguous: the repacked product ignores the activations' row stride
        from 4 tokens up and would be wrong.
        """
        self._check_columns(columns, 0)
        large = self.plain_from is not None and tokens >= self.plain_from
        if large or not self._has_fast_rows(rows):
            return c.mul_mat(self._plain_view(columns, rows, 0, 0), part(0, columns))
        products = []
        covered = 0
        for segment in self.segments:
            if segment.stop > columns:
                break
            weight = self.views.prefix(segment.tensor, segment.stop - segment.start, rows)
            products.append(c.mul_mat(weight, part(segment.start, segment.stop)))
            covered = segment.stop
        if covered < columns:
            weight = self._plain_view(columns - covered, rows, 0, covered)
            products.append(c.mul_mat(weight, part(covered, columns)))
        return reduce(c.add, products)

    def _check_columns(self, columns: int, first_column: int) -> None:
        block = TYPE_SIZES[self.plain.type].block
        if columns % block or first_column % block:
            raise PlanError(
                f"{self.name}: {columns} columns do not fall on the blocks of {block} of "
                f"{self.plain.type.name}; this plan needs another width or weight type"
            )

    def _has_fast_rows(self, rows: int) -> bool:
        return bool(self.segments) and all(
            not segment.repacked or can_repack(segment.tensor.type, rows)
            for segment in self.segments
        )

    def _plain_view(self, columns: int, rows: int, first_row: int, first_column: int) -> Tensor:
        weight = self.plain
        offset = first_row * weight.strides[1] + row_size(weight.type, first_column)
        return self.views.prefix(weight, columns, rows, offset)


class Weights:
    """Owns the mapped file and the copies."""

    def __init__(self, bundle: Bundle, policy: LayoutPolicy) -> None:
        self._policy = policy
        self._infos = weight_tensors(bundle.gguf, bundle.architecture)
        self._file = np.memmap(bundle.gguf.path, dtype=np.uint8, mode="r")
        self._mapping = Buffer.over(self._file)
        self._context = Context(max_tensors=len(self._infos) * (MAX_SEGMENTS + 1))
        self._tensors = {name: self._map(name) for name in self._infos}
        self._views = Views()
        self._copies = Copies(self._context)
        bounds = segment_bounds(bundle.architecture, bundle.levels)
        self.matrices: dict[str, Matrix] = {}
        for index in range(bundle.architecture.num_layers):
            for name in ROW_MATRICES:
                self._add(f"blk.{index}.{name}.weight", ())
            for name in COLUMN_MATRICES:
                self._add(f"blk.{index}.{name}.weight", bounds[index][name])
        tied = bundle.architecture.tied_embeddings
        self.output = self._make("token_embd.weight" if tied else "output.weight", ())
        self._copies.fill(bundle.gguf.path)

    @property
    def copied_bytes(self) -> int:
        return self._copies.nbytes

    @property
    def mapped_bytes(self) -> int:
        return int(self._file.nbytes)

    def tensor(self, name: str) -> Tensor:
        """The mapped tensor, e.g. a norm or the embedding table."""
        return self._tensors[name]

    def find(self, name: str) -> Tensor | None:
        """The mapped tensor if the model has it, e.g. a bias."""
        return self._tensors.get(name)

    def matrix(self, layer: int, name: str) -> Matrix:
        return self.matrices[f"blk.{layer}.{name}.weight"]

    def close(self) -> None:
        """Free everything; graphs that use these weights must be gone."""
        self._views.close()
        self._context.close()
        self._copies.close()
        self._mapping.close()

    def _map(self, name: str) -> Tensor:
        info = self._infos[name]
        tensor = self._context.new_tensor(info.type, *info.shape)
        self._mapping.place(tensor, info.offset)
        return tensor

    def _add(self, name: str, bounds: tuple[int, ...]) -> None:
        self.matrices[name] = self._make(name, bounds)

    def _make(self, name: str, bounds: tuple[int, ...]) -> Matrix:
        plain = self._tensors[name]
        columns, rows = plain.shape[:2]
        repack = self._policy.repacks and can_repack(plain.type, rows)
        cut = bool(bounds) and self._policy.cuts(repack)
        if not repack and not cut:
            return Matrix(name, plain, self._views)
        block = TYPE_SIZES[plain.type].block
        inner = [bound for bound in bounds if cut and bound % block == 0]
        edges = [0, *inner, columns]
        segments = self._copies.add(self._infos[name], edges, repack)
        return Matrix(
            name, plain, self._views, segments, self._policy.plain_from(plain.type, repack)
        )


def segment_bounds(
    architecture: Architecture, levels: tuple[Level, ...]
) -> list[dict[str, tuple[int, ...]]]:
    """Per layer, the inner column bounds at which o and down are cut.

    At most MAX_SEGMENTS - 1 of the widths the levels use: those nearest to even cuts. A width
    between two bounds runs as whole segments and a view of the rest.
    """
    group = architecture.heads_per_kv * architecture.head_dim
    full = {
        "attn_output": architecture.num_kv_heads * group,
        "ffn_down": architecture.ff,
    }
    bounds = []
    for index in range(architecture.num_layers):
        widths = {
            "attn_output": {level.plan.layers[index].kv_heads * group for level in levels},
            "ffn_down": {level.plan.layers[index].ff for level in levels},
        }
        bounds.append({name: _even_cuts(widths[name], full[name]) for name in full})
    return bounds


def _even_cuts(widths: set[int], full: int) -> tuple[int, ...]:
    inner = sorted(width for width in widths if 0 < width < full)
    if len(inner) < MAX_SEGMENTS:
        return tuple(inner)
    chosen = set()
    for part in range(1, MAX_SEGMENTS):
        ideal = full * part / MAX_SEGMENTS
        chosen.add(min(inner, key=lambda width: abs(width - ideal)))
    return tuple(sorted(chosen))


def _columns(c: Context, x: Tensor, start: int, stop: int) -> Tensor:
    """Rows `start`..`stop` of the activations x [columns, n], contiguous."""
    if (start, stop) == (0, x.shape[0]):
        return x
    part = c.view(x, (stop - start, x.shape[1]), (x.strides[1],), start * 4)
    return c.cont(part) if x.shape[1] > 1 else part
