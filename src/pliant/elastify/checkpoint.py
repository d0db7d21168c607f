"""The weight files of a Hugging Face folder, checked before hours are spent on them.

The safetensors format: 8 bytes little-endian length, a JSON header of that length, then the
tensors without gaps (huggingface/safetensors, README, "Format").
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pliant.bundle.manifest import is_file_name
from pliant.errors import ElastifyError
from pliant.progress import Track, untracked

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
MAX_HEADER = 100_000_000
CHUNK_BYTES = 1 << 24
# How the small text file begins that git leaves in the place of a large one.
_LFS_POINTER = b"version "

# How to read the stored numbers, and the exponent's bits: all set in NaN and infinity.
_EXPONENTS: dict[str, tuple[Any, int]] = {
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}


@dataclass(frozen=True)
class StoredTensor:
    """`offset` and `nbytes` in `file`; `dtype` as safetensors names it."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """What the folder's safetensors headers say, by name, checked against the files' sizes.

    Raises ElastifyError, naming file and tensor, for a missing, truncated or malformed file.
    """
    index = _read_index(folder)
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(index.values())) if index else [SINGLE_FILE]:
        for tensor in _read_header(folder / file, index):
            tensors[tensor.name] = tensor
    for name, file in index.items():
        if name not in tensors:
            raise ElastifyError(f"{folder / file} lacks {name}, which {INDEX_FILE} says it holds")
    return tensors


def check_shapes(
    tensors: Mapping[str, StoredTensor],
    expected: Mapping[str, tuple[int, ...]],
    optional: frozenset[str] = frozenset(),
) -> None:
    """Raises ElastifyError unless the tensors are those that config.json describes.

    `optional` ones may be absent; buffers of rotary embeddings may be there.
    """
    missing = [name for name in expected if name not in tensors and name not in optional]
    if missing:
        where = next((f"{tensor.file.parent}: " for tensor in tensors.values()), "")
        more = ", ..." if len(missing) > 1 else ""
        raise ElastifyError(
            f"{where}the weights lack {len(missing)} tensors that config.json asks for: "
            f"{missing[0]}{more}"
        )
    for tensor in tensors.values():
        shape = expected.get(tensor.name)
        if shape is None and not tensor.name.endswith("rotary_emb.inv_freq"):
            raise ElastifyError(
                f"{tensor.file}: {tensor.name} has no place in the model that config.json describes"
            )
        if shape is not None and shape != tensor.shape:
            raise ElastifyError(
                f"{tensor.file}: {tensor.name} is {list(tensor.shape)}, but config.json asks for "
                f"{list(shape)}"
            )


def check_values(
    folder: Path, tensors: Mapping[str, StoredTensor], track: Track = untracked
) -> dict[str, str]:
    """Reads every weight once; returns the sha256 of each file.

    Raises ElastifyError naming file and tensor if a value is NaN or infinite.
    """
    digests = {"config.json": _sha256(folder / "config.json")}
    hashers = {tensor.file: hashlib.sha256() for tensor in tensors.values()}
    # In the order of the files, so that each is hashed as it is checked.
    ordered = sorted(tensors.values(), key=lambda tensor: (tensor.file, tensor.offset))
    started: set[Path] = set()
    for tensor in track(ordered, "check of the weights", len(ordered)):
        with tensor.file.open("rb") as file:
            if tensor.file not in started:
                started.add(tensor.file)
                hashers[tensor.file].update(file.read(tensor.offset))
            file.seek(tensor.offset)
            for chunk in _chunks(file, tensor.nbytes):
                hashers[tensor.file].update(chunk)
                _check_finite(tensor, chunk)
    return digests | {file.name: hasher.hexdigest() for file, hasher in hashers.items()}


def _read_index(folder: Path) -> dict[str, str]:
    """File by tensor name; empty if the weights are in one file."""
    path = folder / INDEX_FILE
    if not path.exists():
        if not (folder / SINGLE_FILE).exists():
            raise ElastifyError(
                f"{folder} has no .safetensors weights ({SINGLE_FILE} or {INDEX_FILE})"
            )
        return {}
    index = _load_json(path, path.read_bytes()).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise ElastifyError(f"{path} has no weight_map")
    for name, file in index.items():
        if not isinstance(file, str) or not is_file_name(file):
            raise ElastifyError(
                f"{path}: {name} is said to lie in {file!r}, which is not a file of this folder"
            )
        if not (folder / file).is_file():
            raise ElastifyError(f"{folder / file} is missing: {INDEX_FILE} says it holds {name}")
    return index


def _read_header(path: Path, index: Mapping[str, str]) -> list[StoredTensor]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if start == _LFS_POINTER:
                raise ElastifyError(
                    f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` there"
                )
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            if length > min(size - 8, MAX_HEADER):
                raise ElastifyError(f"{path} is cut short: its header does not fit in {size} bytes")
            header = _load_json(path, file.read(length))
    except OSError as error:
        raise ElastifyError(f"{path} cannot be read: {error}") from error
    header.pop("__metadata__", None)
    tensors = [_stored(path, name, entry, 8 + length) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    position = 8 + length
    for tensor in tensors:
        if tensor.offset != position:
            raise ElastifyError(f"{path}: {tensor.name} does not begin where the one before ends")
        position += tensor.nbytes
        if position > size:
            raise ElastifyError(
                f"{path} is cut short: {tensor.name} ends at byte {position}, the file at {size}"
            )
        if index and index.get(tensor.name) != path.name:
            raise ElastifyError(f"{path} holds {tensor.name}, but {INDEX_FILE} does not say so")
    if position != size:
        raise ElastifyError(f"{path} goes on for {size - position} bytes after its last tensor")
    return tensors


def _stored(path: Path, name: str, entry: Any, data_start: int) -> StoredTensor:
    try:
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        sizes = (*shape, begin, end)
        sound = all(type(size) is int and size >= 0 for size in sizes)
    except (KeyError, TypeError, ValueError):
        dtype, sound = None, False
    if not sound:
        raise ElastifyError(f"{path}: the header's entry for {name} is malformed")
    if dtype not in _EXPONENTS:
        raise ElastifyError(
            f"{path}: {name} is stored as {dtype}; pliant starts from {', '.join(_EXPONENTS)}"
        )
    kind, _ = _EXPONENTS[dtype]
    if end - begin != prod(shape) * np.dtype(kind).itemsize:
        raise ElastifyError(f"{path}: {name} has {end - begin} bytes, not those of {list(shape)}")
    return StoredTensor(name, path, dtype, shape, data_start + begin, end - begin)


def _load_json(path: Path, text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ElastifyError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ElastifyError(f"{path} cannot be read: its header is not a JSON object")
    return content


def _chunks(file: Any, nbytes: int) -> Iterator[bytes]:
    while nbytes > 0:
        chunk = file.read(min(nbytes, CHUNK_BYTES))
        if not chunk:
            raise ElastifyError(f"{file.name} became shorter while it was read")
        nbytes -= len(chunk)
        yield chunk


def _check_finite(tensor: StoredTensor, chunk: bytes) -> None:
    kind, exponent = _EXPONENTS[tensor.dtype]
    values: npt.NDArray[Any] = np.frombuffer(chunk, dtype=kind)
    if np.any((values & kind(exponent)) == exponent):
        raise ElastifyError(f"{tensor.file}: {tensor.name} holds NaN or infinite values")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
