"""Writes a model as a standard GGUF that llama.cpp and everything built on it reads.

A whole model is written as its family's architecture; a stand-alone sub-model of a Llama, whose
layers differ in size, as `deci`, the one for which llama.cpp reads per-layer sizes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType as QuantType

from pliant.bundle.plan import Plan
from pliant.elastify.activations import ImportanceMatrix
from pliant.elastify.metadata import add_model_keys
from pliant.elastify.quantization import (
    FILE_TYPES,
    QUANTIZATIONS,
    check_quantization,
    encode,
    output_type,
    stored_bytes,
    stored_type,
)
from pliant.elastify.source import SourceConfig, config_of
from pliant.elastify.tensors import GGUF_NAMES, model_tensors
from pliant.elastify.vocabulary import Vocabulary
from pliant.errors import ElastifyError, PlanError
from pliant.progress import Track, untracked


@dataclass(frozen=True)
class _Entry:
    """One tensor to write: `weight` in rows, as transformers has it; its columns' importance."""

    name: str
    weight: torch.Tensor
    type: QuantType
    importance: npt.NDArray[np.float32] | None = None

    @property
    def stored_type(self) -> QuantType:
        return stored_type(self.type, self.weight.shape[-1])

    @property
    def nbytes(self) -> int:
        return stored_bytes(self.stored_type, self.weight.numel())


def write_gguf(
    model: Any,
    vocabulary: Vocabulary,
    path: Path,
    quantization: str,
    name: str,
    *,
    importance: ImportanceMatrix | None = None,
    track: Track = untracked,
) -> None:
    """Writes a transformers model (as `load_model` returns it), whole.

    `quantization` is a key of QUANTIZATIONS. Norms and biases stay F32; in files of 4 and 5 bits
    the output matrix (the embeddings, if tied) has more (Q8_0 for Q4_0, else Q6_K); a matrix whose
    rows are not whole blocks is Q8_0, or F16. A few rows at a time are in memory. The weights of a
    model on torch's device "meta" are left out: a sparse file of the right size. Raises
    ElastifyError for an unknown quantization.
    """
    config = config_of(model.config)
    writer = _writer(path, config.family.name, config, vocabulary, quantization, name)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_feed_forward_length(config.ff)
    columns = _by_tensor(importance or {})
    entries = partial(_entries, model, config, None, QUANTIZATIONS[quantization], columns)
    _write(writer, entries, track)


def write_submodel_gguf(
    model: Any, plan: Plan, vocabulary: Vocabulary, path: Path, quantization: str, name: str
) -> None:
    """Writes only what `plan` runs of a reordered model, as architecture `deci`.

    Raises ElastifyError for another family than Llama, and PlanError for what llama.cpp cannot
    run so: a first layer without attention (it takes the length of a head from there), or a layer
    without an MLP (it skips the attention too).
    """
    config = config_of(model.config)
    if config.family.name != "llama":
        raise ElastifyError(
            f"llama.cpp knows no {config.family.name} model whose layers differ in size; a "
            "stand-alone sub-model can be written of a Llama-type model only"
        )
    if plan.layers[0].kv_heads == 0 or any(layer.ff == 0 for layer in plan.layers):
        raise PlanError(
            "a stand-alone GGUF needs attention in its first layer and an MLP in every layer"
        )
    writer = _writer(path, "deci", config, vocabulary, quantization, name)
    writer.add_head_count([layer.heads for layer in plan.layers])
    writer.add_head_count_kv([layer.kv_heads for layer in plan.layers])
    writer.add_feed_forward_length([layer.ff for layer in plan.layers])
    entries = partial(_entries, model, config, plan, QUANTIZATIONS[quantization], {})
    _write(writer, entries, untracked)


def _entries(
    model: Any,
    config: SourceConfig,
    plan: Plan | None,
    type_: QuantType,
    columns: Mapping[str, npt.NDArray[np.float32]],
) -> Iterator[_Entry]:
    output = "token_embd.weight" if config.tied_embeddings else "output.weight"
    for name, weight in model_tensors(model, config, plan):
        matrix_type = output_type(type_) if name == output else type_
        is_matrix = weight.ndim > 1
        yield _Entry(name, weight, matrix_type if is_matrix else QuantType.F32, columns.get(name))


def _by_tensor(importance: ImportanceMatrix) -> dict[str, npt.NDArray[np.float32]]:
    """The importance of columns by the tensors' names in the file."""
    found = {}
    for (layer, name), values in importance.items():
        found[f"blk.{layer}.{GGUF_NAMES[name]}.weight"] = values
        if name == "self_attn.q_proj":  # in fused files q, k and v are one matrix
            found[f"blk.{layer}.attn_qkv.weight"] = values
    return found


@torch.no_grad()
def _write(writer: Any, entries: Callable[[], Iterator[_Entry]], track: Track) -> None:
    """Two passes, so that a few rows of a tensor that is not the model's own are in memory."""
    count = 0
    for entry in entries():
        count += 1
        # The element type only matters where no raw type is given.
        writer.add_tensor_info(
            entry.name,
            tuple(entry.weight.shape),
            np.dtype(np.float32),
            entry.nbytes,
            raw_dtype=entry.stored_type,
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        file = writer.fout[0]
        writer.write_padding(file, file.tell())
        for entry in track(entries(), "export", count):
            _write_tensor(file, entry)
            writer.write_padding(file, entry.nbytes)
    except OSError as error:
        raise ElastifyError(f"{writer.path} cannot be written: {error}") from error
    finally:
        writer.close()


def _write_tensor(file: Any, entry: _Entry) -> None:
    if entry.weight.is_meta:
        file.truncate(file.tell() + entry.nbytes)
        file.seek(0, os.SEEK_END)
        return
    try:
        for piece in encode(entry.weight, entry.stored_type, entry.importance):
            file.write(piece.data)
    except ValueError as error:
        raise ElastifyError(
            f"{entry.name} cannot be stored as {entry.stored_type.name}: {error}"
        ) from error


def _writer(
    path: Path,
    architecture: str,
    config: SourceConfig,
    vocabulary: Vocabulary,
    quantization: str,
    name: str,
) -> Any:
    check_quantization(quantization)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[quantization])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_model_keys(writer, config)
    _add_vocabulary(writer, vocabulary)
    return writer


def _add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.model == "llama":
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    else:
        writer.add_token_merges(vocabulary.merges)
    identifiers = (
        (vocabulary.bos, writer.add_bos_token_id),
        (vocabulary.eos, writer.add_eos_token_id),
        (vocabulary.pad, writer.add_pad_token_id),
        (vocabulary.unk, writer.add_unk_token_id),
    )
    for identifier, add in identifiers:
        if identifier is not None:
            add(identifier)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)
