"""Quick encoders of ggml's blocks of 4 and 2 bits, many rows at a time.

ggml's own search a grid of scales for each few numbers and take a tenth of the time that computing
the tokens took. One fit by least squares comes as close (closer at 2 bits: ggml weighs large
numbers more) in a fifth of that. Layouts are those of ggml-common.h; decoding is ggml's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pliant.ggml.quantize import quantize
from pliant.ggml.types import GgmlType

_BLOCK = 256
_TINY = np.float32(1e-30)

_Floats = NDArray[np.float32]
_Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Affine:
    """Groups of `group` numbers q * scale - low, q in 0..levels. Scales and lows are multiples
    0..steps of two numbers of the block. `range` is the share of a group's range that the first
    guess of its scale spans: with few levels, the ends are better clipped."""

    group: int
    levels: int
    steps: int
    range: float


_Q4_K = _Affine(group=32, levels=15, steps=63, range=1.0)
_Q2_K = _Affine(group=16, levels=3, steps=15, range=0.8)


def encode_rows(rows: _Floats, type_: GgmlType) -> _Bytes:
    """Encode finite float32 [rows, columns]: uint8 [rows, bytes per row]; whole blocks."""
    encoder = _ENCODERS.get(type_)
    if encoder is None:
        return quantize(rows, type_)
    return encoder(rows.reshape(-1, _BLOCK)).reshape(len(rows), -1)


def _encode(blocks: _Floats, kind: _Affine) -> tuple[_Bytes, _Bytes, _Bytes, _Bytes]:
    """Of float32 [n, 256]: the block's two numbers as f16 bytes [n, 4], multiples of the first
    and of the second [n, groups], q [n, 256]."""
    x = blocks.reshape(len(blocks), -1, kind.group)
    scale, low = _fit(x, kind)
    units = np.stack([scale.max(axis=1), low.max(axis=1)], axis=1) / np.float32(kind.steps)
    halves = units.astype(np.float16)
    units = halves.astype(np.float32)
    multiples = [
        np.clip(np.rint(part / np.maximum(unit, _TINY)[:, None]), 0, kind.steps)
        for part, unit in ((scale, units[:, 0]), (low, units[:, 1]))
    ]
    scale, low = (part * unit[:, None] for part, unit in zip(multiples, units.T, strict=True))
    q = _round(x, scale, low, kind.levels).astype(np.uint8)
    scales, lows = (part.astype(np.uint8) for part in multiples)
    return halves.view(np.uint8).reshape(-1, 4), scales, lows, q.reshape(len(blocks), _BLOCK)


def _fit(x: _Floats, kind: _Affine) -> tuple[_Floats, _Floats]:
    """Scale and low >= 0 of each group: least squares for the q of a first guess."""
    least = np.minimum(x.min(axis=-1), 0)
    most = np.maximum(x.max(axis=-1), 0)
    half = (most - least) * np.float32(kind.range / 2)
    low = np.maximum(half - (most + least) / 2, 0)
    q = _round(x, half * np.float32(2 / kind.levels), low, kind.levels)
    n, sum_q, sum_x = kind.group, q.sum(axis=-1), x.sum(axis=-1)
    sum_qq, sum_qx = (np.einsum("...i,...i", q, y) for y in (q, x))
    spread = n * sum_qq - sum_q * sum_q  # exact: whole numbers
    slope = (n * sum_qx - sum_q * sum_x) / np.maximum(spread, 1)
    slope = np.where(spread > 0, slope, 0)
    offset = (sum_x - slope * sum_q) / n
    # A low below 0 cannot be stored: then the line goes through the origin.
    slope = np.where(offset > 0, sum_qx / np.maximum(sum_qq, 1), slope)
    return np.maximum(slope, 0), np.maximum(-offset, 0)


def _round(x: _Floats, scale: _Floats, low: _Floats, levels: int) -> _Floats:
    inverse = np.where(scale > _TINY, 1 / np.maximum(scale, _TINY), 0)
    q = x + low[..., None]
    q *= inverse[..., None]
    np.rint(q, out=q)
    return np.clip(q, 0, levels, out=q)


def _pack_4(units: _Bytes, scales: _Bytes, lows: _Bytes, q: _Bytes) -> _Bytes:
    """struct block_q4_K: units, 6-bit multiples, q in nibbles of 64 at a time."""
    first = [part[:, :4] | (part[:, 4:] >> 4 << 6) for part in (scales, lows)]
    rest = (scales[:, 4:] & 15) | (lows[:, 4:] & 15) << 4
    pairs = q.reshape(-1, 4, 2, 32)
    nibbles = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    return np.concatenate([units, *first, rest, nibbles], axis=1)


def _pack_2(units: _Bytes, scales: _Bytes, lows: _Bytes, q: _Bytes) -> _Bytes:
    """struct block_q2_K: 4-bit multiples, q in bit pairs of 128 at a time, units."""
    quads = q.reshape(-1, 2, 4, 32)
    pairs = quads[:, :, 0] | quads[:, :, 1] << 2 | quads[:, :, 2] << 4 | quads[:, :, 3] << 6
    return np.concatenate([scales | lows << 4, pairs.reshape(-1, 64), units], axis=1)


_ENCODERS: dict[GgmlType, Callable[[_Floats], _Bytes]] = {
    GgmlType.Q4_K: lambda blocks: _pack_4(*_encode(blocks, _Q4_K)),
    GgmlType.Q2_K: lambda blocks: _pack_2(*_encode(blocks, _Q2_K)),
}
