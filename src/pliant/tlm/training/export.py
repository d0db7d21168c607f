"""Writes a network as `tlm.gguf`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pliant.bundle.gguf_writer import MetadataValue, TensorSpec, write_gguf
from pliant.errors import BundleError
from pliant.ggml.quantize import encode
from pliant.ggml.types import GgmlType
from pliant.tlm.config import TlmConfig
from pliant.tlm.format import (
    ARCHITECTURE,
    LADDER_KEYS,
    LOWERCASE_KEY,
    NORM_EPS_KEY,
    SIZE_KEYS,
    TEXT_KEYS,
    TOKEN_KEYS,
    TOKENS_KEY,
    VERSION,
    VERSION_KEY,
    VOCABULARY_KEY,
    TlmFile,
    tensor_shapes,
)
from pliant.tlm.training.network import TinyNetwork, Vocabulary

WeightType = Literal["Q8_0", "F16", "F32"]


def write_tlm(path: str | Path, network: TinyNetwork, weights: WeightType = "Q8_0") -> TlmFile:
    """Write the file, or nothing, and return it opened; `weights` is the matrices' type.

    Raises BundleError if a weight is not finite or the file cannot be written.
    """
    if weights not in get_args(WeightType):
        raise BundleError(f"weights is {weights!r}; it must be {', '.join(get_args(WeightType))}")
    specs = [
        TensorSpec(name, shape, GgmlType[weights] if is_matrix else GgmlType.F32)
        for name, shape, is_matrix in tensor_shapes(network.config)
    ]
    _check_finite(network)
    write_gguf(path, _metadata(network), specs, _data(network, specs))
    return TlmFile.open(path)


def _metadata(network: TinyNetwork) -> dict[str, MetadataValue]:
    config, vocabulary = network.config, network.vocabulary
    metadata: dict[str, MetadataValue] = {
        "general.architecture": ARCHITECTURE,
        VERSION_KEY: VERSION,
        f"{ARCHITECTURE}.{NORM_EPS_KEY}": config.norm_eps,
    }
    for keys in (SIZE_KEYS, TOKEN_KEYS, TEXT_KEYS):
        metadata |= {f"{ARCHITECTURE}.{key}": getattr(config, name) for name, key in keys.items()}
    for name, key in LADDER_KEYS.items():
        metadata[f"{ARCHITECTURE}.{key}"] = np.array(getattr(config, name), dtype=np.float64)
    return metadata | _tokenizer(config, vocabulary)


def _tokenizer(config: TlmConfig, vocabulary: Vocabulary) -> dict[str, MetadataValue]:
    if config.tokenizer == "wordpiece":
        return {TOKENS_KEY: list(vocabulary.pieces), LOWERCASE_KEY: vocabulary.lowercase}
    assert vocabulary.sha256 is not None
    return {VOCABULARY_KEY: vocabulary.sha256}


def _check_finite(network: TinyNetwork) -> None:
    for name, tensor in network.state_dict().items():
        if not tensor.isfinite().all():
            raise BundleError(f"{name} holds values that are not finite; the training diverged")


def _data(network: TinyNetwork, specs: list[TensorSpec]) -> Iterator[list[NDArray[np.uint8]]]:
    state = network.state_dict()
    for spec in specs:
        rows = state[spec.name].detach().cpu().float().numpy().reshape(-1, spec.shape[0])
        yield [encode(rows, spec.type)]
