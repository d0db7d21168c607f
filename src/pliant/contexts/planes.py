"""A head's keys or values of a chunk as ggml blocks: what is stored instead of 16-bit numbers.

Channels of keys differ in centre and scale, and rotated ones swing: blocks that span channels
would spend their range on the few large ones (KIVI, arXiv 2402.02750, section 3). So keys are
shifted and scaled per channel of a chunk; both are kept in a byte each, as they need not be exact:
what is encoded is the difference to what they say.
"""

import numpy as np
from numpy.typing import NDArray

from pliant.contexts.blocks import encode_rows
from pliant.errors import ChunkError
from pliant.ggml.types import GgmlType

# A scale is 2 ** (code / 8), a centre code / 4 scales.
_SCALE_STEPS = 8
_CENTRE_STEPS = 4
_MOST_CENTRE = 31.0
_LEAST_SCALE = 2.0**-15


def encode_sections(
    keys: NDArray[np.float32], values: NDArray[np.float32], type_: GgmlType
) -> NDArray[np.uint8]:
    """Keys and values of a layer, each float32 [heads, tokens, head_dim]: uint8 [heads, bytes].

    Raises ChunkError for numbers that are not finite.
    """
    heads = len(keys)
    if not np.isfinite([keys.sum(), values.sum()]).all():
        raise ChunkError("keys or values are not finite: only 16 bits keep them")
    codes = describe_channels(keys)
    centres, scales = read_channels(codes)
    keys = (keys - centres[:, None]) / scales[:, None]
    planes = (
        encode_rows(keys.reshape(heads, -1), type_),
        encode_rows(values.reshape(heads, -1), type_),
    )
    return np.concatenate([codes.view(np.uint8).reshape(heads, -1), *planes], axis=1)


def describe_channels(keys: NDArray[np.float32]) -> NDArray[np.int8]:
    """Codes of the centres and scales of float32 keys [heads, tokens, head_dim]: int8
    [heads, 2, head_dim]."""
    mean = keys.mean(axis=1)
    spread = np.maximum(keys.std(axis=1), np.abs(mean) / _MOST_CENTRE)
    scales = np.rint(_SCALE_STEPS * np.log2(np.maximum(spread, _LEAST_SCALE)))
    scales = np.clip(scales, -127, 127)
    centres = np.rint(_CENTRE_STEPS * mean / np.exp2(scales / _SCALE_STEPS))
    return np.stack([np.clip(centres, -127, 127), scales], axis=1).astype(np.int8)


def read_channels(codes: NDArray[np.int8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centres and scales, each float32 [.., head_dim], of codes [.., 2, head_dim]."""
    scales = np.exp2(codes[..., 1, :].astype(np.float32) / np.float32(_SCALE_STEPS))
    return codes[..., 0, :] * (scales / np.float32(_CENTRE_STEPS)), scales
