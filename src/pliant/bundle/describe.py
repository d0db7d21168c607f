"""What `pliant show` says of a bundle, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from pliant.bundle.architecture import Architecture
from pliant.bundle.bundle import Bundle
from pliant.bundle.gguf import GgufFile
from pliant.bundle.manifest import MANIFEST_FILE
from pliant.bundle.plan import Level, Plan
from pliant.bundle.vocabulary import describe_tokenizer


@dataclass(frozen=True)
class TypeShare:
    """How much of the model is stored in one tensor type."""

    type: str
    tensors: int
    parameters: int
    nbytes: int


@dataclass(frozen=True)
class AdapterDescription:
    """`type` is that of the factors A; small factors may be stored wider."""

    file: str
    rank: int
    alpha: float
    type: str
    parameters: int
    nbytes: int


@dataclass(frozen=True)
class LevelDescription:
    """`parameters` counts the model's weights that the level uses; `plan` is the plan's JSON, per
    layer `[kv_heads, heads_per_kv, ff]`."""

    ratio: float
    cost: float
    parameters: int
    plan: list[list[int]]
    adapter: AdapterDescription | None = None


@dataclass(frozen=True)
class Description:
    """A bundle for people and machines; `to_json` is ready for `json.dumps`."""

    name: str
    path: str
    is_elastic: bool
    architecture: Architecture
    parameters: int
    types: tuple[TypeShare, ...]
    levels: tuple[LevelDescription, ...]
    files: Mapping[str, int]
    tokenizer: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return asdict(self)


def describe(bundle: Bundle) -> Description:
    """Describe an open bundle; reads file sizes, not their content."""
    manifest = bundle.manifest
    files = {bundle.gguf.path.name: bundle.gguf.size}
    if manifest is not None:
        files = {name: record.nbytes for name, record in manifest.files.items()}
        files[MANIFEST_FILE] = (bundle.path / MANIFEST_FILE).stat().st_size
    parameters = sum(prod(tensor.shape) for tensor in bundle.gguf.tensors.values())
    return Description(
        name=bundle.name,
        path=str(bundle.path),
        is_elastic=len(bundle.levels) > 1,
        architecture=bundle.architecture,
        parameters=parameters,
        types=_type_shares(bundle.gguf),
        levels=tuple(_describe_level(bundle, level, parameters) for level in bundle.levels),
        files=files,
        tokenizer=describe_tokenizer(bundle.gguf),
        provenance={} if manifest is None else dict(manifest.provenance),
    )


def _type_shares(gguf: GgufFile) -> tuple[TypeShare, ...]:
    """Largest share first."""
    shares = []
    for type_ in {tensor.type for tensor in gguf.tensors.values()}:
        tensors = [tensor for tensor in gguf.tensors.values() if tensor.type is type_]
        parameters = sum(prod(tensor.shape) for tensor in tensors)
        nbytes = sum(tensor.nbytes for tensor in tensors)
        shares.append(TypeShare(type_.name, len(tensors), parameters, nbytes))
    return tuple(sorted(shares, key=lambda share: -share.nbytes))


def _describe_level(bundle: Bundle, level: Level, parameters: int) -> LevelDescription:
    architecture = bundle.architecture
    unused = _matrix_weights(architecture, Plan.full(architecture)) - _matrix_weights(
        architecture, level.plan
    )
    plan = level.plan.to_json()
    adapter = None if level.adapter is None else _describe_adapter(bundle, level.adapter)
    return LevelDescription(level.ratio, level.cost, parameters - unused, plan, adapter)


def _describe_adapter(bundle: Bundle, name: str) -> AdapterDescription:
    adapter = bundle.adapters[name]
    return AdapterDescription(
        file=name,
        rank=adapter.rank,
        alpha=adapter.alpha,
        type=next(iter(adapter.gguf.tensors.values())).type.name,
        parameters=adapter.parameters,
        nbytes=adapter.gguf.size,
    )


def _matrix_weights(architecture: Architecture, plan: Plan) -> int:
    """Weights of the layers' matrices: q, k, v, o and gate, up, down."""
    heads = sum(2 * layer.heads + 2 * layer.kv_heads for layer in plan.layers)
    neurons = sum(3 * layer.ff for layer in plan.layers)
    return architecture.hidden_size * (heads * architecture.head_dim + neurons)
