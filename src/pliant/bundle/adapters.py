"""A level's adapter: low-rank corrections (LoRA) of a sub-model's linear modules.

The file is what llama.cpp's convert_lora_to_gguf writes and its `--lora` reads: per module W
[out, in] the factors A [rank, in] and B [out, rank], so that the module computes
W x + alpha / rank * B (A x). Sizes are those of the level's sub-model, not of the full model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as shorten
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from pliant.bundle.architecture import Architecture
from pliant.bundle.gguf import GgufFile, TensorInfo
from pliant.bundle.gguf_writer import MetadataValue, TensorSpec, write_gguf
from pliant.bundle.modules import Module, modules
from pliant.bundle.plan import Plan
from pliant.errors import BundleError, CorruptFileError
from pliant.ggml.types import TYPE_SIZES, GgmlType

AdapterQuantization = Literal["F16", "Q8_0"]
Floats = npt.NDArray[np.float32]
Factors = Mapping[str, tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]]

MAX_RANK = 1024
_TYPES = (GgmlType.F16, GgmlType.Q8_0)
_SUFFIXES = (".lora_a", ".lora_b")
_Q8_0_DTYPE = np.dtype([("scale", "<f2"), ("values", "i1", 32)])


@dataclass(frozen=True, eq=False)
class Adapter:
    """An opened adapter. `names` are the adapted tensors, e.g. 'blk.0.attn_q.weight'."""

    gguf: GgufFile = field(repr=False)
    architecture: str
    alpha: float
    rank: int
    names: tuple[str, ...]

    @property
    def scale(self) -> float:
        """What B (A x) is multiplied by."""
        return self.alpha / self.rank

    @property
    def parameters(self) -> int:
        """Weights in all factors; as many multiply-adds per token."""
        return sum(math.prod(tensor.shape) for tensor in self.gguf.tensors.values())

    @staticmethod
    def open(path: str | Path) -> Adapter:
        """Map and check an adapter, but for what depends on the model (`check_fits`).

        Raises BundleNotFoundError, CorruptFileError or UnsupportedModelError.
        """
        gguf = GgufFile.open(path)
        architecture = _text(gguf, "general.architecture")
        for key, expected in (("general.type", "adapter"), ("adapter.type", "lora")):
            if _text(gguf, key) != expected:
                found = shorten(gguf.metadata[key])
                raise CorruptFileError(f"{gguf.path}: {key} is {found}, not {expected!r}")
        names = _adapted_names(gguf)
        ranks = {_check_pair(gguf, name) for name in names}
        if len(ranks) > 1:
            raise CorruptFileError(f"{gguf.path}: factors of several ranks: {sorted(ranks)}")
        _check_types(gguf, names)
        return Adapter(gguf, architecture, _alpha(gguf), ranks.pop(), names)

    def check_fits(self, architecture: Architecture, plan: Plan) -> None:
        """Raise CorruptFileError unless there are factors for exactly the modules `plan` runs."""
        where = self.gguf.path
        if self.architecture != architecture.name:
            raise CorruptFileError(
                f"{where} is for {shorten(self.architecture)}, the model is {architecture.name!r}"
            )
        expected = {module.name: module for module in modules(architecture, plan)}
        for name in self.names:
            if name not in expected:
                raise CorruptFileError(f"{where} adapts {name!r}, which its level does not run")
        for module in expected.values():
            self._check_module(module)

    def factors(self, name: str) -> tuple[Floats, Floats]:
        """A [rank, in] and B [out, rank] of a tensor, decoded; the scale is not in them."""
        tensors = [self.gguf.tensors[f"{name}{suffix}"] for suffix in _SUFFIXES]
        a, b = (decode_factor(self.gguf.tensor_bytes(info.name), info) for info in tensors)
        return a, b

    def _check_module(self, module: Module) -> None:
        where = self.gguf.path
        if module.name not in self.names:
            raise CorruptFileError(f"{where} has no factors for {module.name!r}")
        a, b = (self.gguf.tensors[f"{module.name}{suffix}"] for suffix in _SUFFIXES)
        found = a.shape[0], b.shape[1]
        if found != (module.columns, module.rows):
            raise CorruptFileError(
                f"{where}: the factors of {module.name!r} adapt {found[1]} x {found[0]} weights, "
                f"its level has {module.rows} x {module.columns}"
            )


def decode_factor(data: memoryview, info: TensorInfo) -> Floats:
    """The values of a factor from its bytes, in rows as numpy has them."""
    shape = info.shape[::-1]
    if info.type is GgmlType.F16:
        return np.frombuffer(data, "<f2").astype(np.float32).reshape(shape)
    blocks = np.frombuffer(data, _Q8_0_DTYPE)
    values = blocks["values"] * blocks["scale"].astype(np.float32)[:, None]
    return np.asarray(values, dtype=np.float32).reshape(shape)


def adapter_file_name(ratio: float) -> str:
    """What the adapter of the level `ratio` is called in a bundle."""
    return f"adapter-{ratio:g}.gguf"


def write_adapter(
    path: str | Path,
    architecture_name: str,
    factors: Factors,
    alpha: float,
    quantization: AdapterQuantization,
) -> Adapter:
    """Write an adapter, or nothing, and return it opened.

    `factors` maps each adapted tensor ('blk.0.attn_q.weight') to A [rank, in] and B [out, rank]
    in the order of the GGUF's rows and columns (in llama models the rows of q and k are
    interleaved, see `elastify.export.interleave_rotary`). With Q8_0, a factor whose rows are not
    whole blocks of 32 stays F16: B of a small rank does. Raises BundleError for factors that do
    not belong together or are not finite, or if the file cannot be written.
    """
    path = Path(path)
    if quantization not in get_args(AdapterQuantization):
        raise BundleError(f"quantization is {quantization!r}; it must be F16 or Q8_0")
    if not (math.isfinite(alpha) and alpha > 0):
        raise BundleError(f"alpha is {alpha}; it must be positive")
    _check_factors(factors)
    matrices = {
        f"{name}{suffix}": matrix
        for name, pair in factors.items()
        for suffix, matrix in zip(_SUFFIXES, pair, strict=True)
    }
    specs = [_spec(name, matrix, GgmlType[quantization]) for name, matrix in matrices.items()]
    metadata: dict[str, MetadataValue] = {
        "general.architecture": architecture_name,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(alpha),
    }
    encoded = ([_encode(matrices[spec.name], spec.type)] for spec in specs)
    write_gguf(path, metadata, specs, encoded)
    return Adapter.open(path)


def _check_factors(factors: Factors) -> None:
    if not factors:
        raise BundleError("an adapter needs factors of at least one module")
    ranks = set()
    for name, (a, b) in factors.items():
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or 0 in (*a.shape, *b.shape):
            raise BundleError(f"{name}: A {a.shape}, B {b.shape} are not [rank, in], [out, rank]")
        with np.errstate(over="ignore"):
            halves = [matrix.astype(np.float16) for matrix in (a, b)]
        if not all(np.isfinite(matrix).all() for matrix in halves):
            raise BundleError(f"{name}: a factor holds values that are not finite in F16")
        ranks.add(a.shape[0])
    if len(ranks) > 1 or max(ranks) > MAX_RANK:
        raise BundleError(f"all factors need one rank of at most {MAX_RANK}, got {sorted(ranks)}")


def _spec(name: str, matrix: npt.NDArray[np.floating], type_: GgmlType) -> TensorSpec:
    rows, columns = matrix.shape
    fits = columns % TYPE_SIZES[type_].block == 0
    return TensorSpec(name, (columns, rows), type_ if fits else GgmlType.F16)


def _encode(matrix: npt.NDArray[np.floating], type_: GgmlType) -> npt.NDArray[np.generic]:
    if type_ is GgmlType.F16:
        return np.ascontiguousarray(matrix, dtype="<f2")
    return encode_q8_0(np.ascontiguousarray(matrix, dtype=np.float32))


def encode_q8_0(values: Floats) -> npt.NDArray[np.void]:
    """float32 [rows, columns] as ggml's Q8_0 blocks, without the library."""
    blocks = values.reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1) / np.float32(127)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = blocks * inverse[:, None]
    out = np.empty(len(blocks), _Q8_0_DTYPE)
    out["scale"] = scale
    # ggml rounds halves away from zero, numpy's rint to even.
    out["values"] = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))
    return out


def _text(gguf: GgufFile, key: str) -> str:
    value = gguf.metadata.get(key)
    if not isinstance(value, str):
        raise CorruptFileError(f"{gguf.path}: {key} is missing or not text")
    return value


def _alpha(gguf: GgufFile) -> float:
    value = gguf.metadata.get("adapter.lora.alpha")
    if not isinstance(value, float) or not (math.isfinite(value) and value > 0):
        found = shorten(value)
        raise CorruptFileError(f"{gguf.path}: adapter.lora.alpha is {found}, not a positive number")
    return value


def _adapted_names(gguf: GgufFile) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for name in gguf.tensors:
        base, suffix = name[:-7], name[-7:]
        if suffix not in _SUFFIXES or not base:
            raise CorruptFileError(f"{gguf.path}: tensor {name!r} is not a factor of an adapter")
        names[base] = None
    if not names:
        raise CorruptFileError(f"{gguf.path} holds no factors")
    return tuple(names)


def _check_pair(gguf: GgufFile, name: str) -> int:
    """The rank of a tensor's factors."""
    a, b = (_factor(gguf, f"{name}{suffix}") for suffix in _SUFFIXES)
    if a.shape[1] != b.shape[0] or a.shape[1] > MAX_RANK:
        raise CorruptFileError(
            f"{gguf.path}: the factors of {name!r} have the ranks {a.shape[1]} and {b.shape[0]}; "
            f"they must be equal and at most {MAX_RANK}"
        )
    return a.shape[1]


def _check_types(gguf: GgufFile, names: Iterable[str]) -> None:
    """Modules with the same input have their A multiplied together, so these need one type."""
    types: dict[int, GgmlType] = {}
    for name in names:
        info = gguf.tensors[f"{name}.lora_a"]
        if types.setdefault(info.shape[0], info.type) is not info.type:
            raise CorruptFileError(f"{gguf.path}: {info.name!r} has another type than the other A")


def _factor(gguf: GgufFile, name: str) -> TensorInfo:
    info = gguf.tensors.get(name)
    if info is None:
        raise CorruptFileError(f"{gguf.path}: tensor {name!r} is missing")
    if len(info.shape) != 2 or info.type not in _TYPES:
        raise CorruptFileError(
            f"{gguf.path}: tensor {name!r} is {info.type.name} of shape {info.shape}, not a matrix "
            "of F16 or Q8_0"
        )
    return info
