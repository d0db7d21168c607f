"""Write safetensors files, one tensor at a time (https://huggingface.co/docs/safetensors)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_f16(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    data: Iterable[Iterable[NDArray[np.float32]]],
) -> None:
    """Tensors of `shapes`, slowest dimension first, as F16; `data` yields each one's values in
    order, in pieces. Raises OSError."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        first = file.tell()
        for pieces in data:
            for piece in pieces:
                file.write(np.ascontiguousarray(piece, dtype="<f2").data)
        if file.tell() - first != end:
            raise ValueError(f"{file.tell() - first} bytes of tensors, {end} were announced")
        file.flush()
        os.fsync(file.fileno())
