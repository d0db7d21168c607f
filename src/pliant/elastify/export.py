"""Writes a model as a standard GGUF that llama.cpp and everything built on it reads.

A whole model is written as its family's architecture; a stand-alone sub-model of a Llama, whose
layers differ in size, as `deci`, the one for which llama.cpp reads per-layer sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as QuantType

from pliant.bundle.plan import Plan
from pliant.elastify.metadata import add_model_keys
from pliant.elastify.source import SourceConfig, config_of
from pliant.elastify.tensors import model_tensors
from pliant.elastify.vocabulary import Vocabulary
from pliant.errors import ElastifyError, PlanError

QUANTIZATIONS = {"F16": QuantType.F16, "Q8_0": QuantType.Q8_0, "Q4_0": QuantType.Q4_0}
_FILE_TYPES = {
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}


@dataclass(frozen=True)
class _Entry:
    """One tensor to write: `weight` in rows, as transformers has it, still float32."""

    name: str
    weight: torch.Tensor
    type: QuantType


def write_gguf(
    model: Any, vocabulary: Vocabulary, path: Path, quantization: str, name: str
) -> None:
    """Writes a transformers model (as `load_model` returns it), whole.

    `quantization` is a key of QUANTIZATIONS. Norms and biases stay F32; in Q4_0 files the output
    matrix (the embeddings, if tied) is Q8_0; a matrix whose rows are not whole blocks is F16.
    Raises ElastifyError for an unknown quantization.
    """
    config = config_of(model.config)
    writer = _writer(path, config.family.name, config, vocabulary, quantization, name)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_feed_forward_length(config.ff)
    _write(writer, partial(_entries, model, config, None, QUANTIZATIONS[quantization]))


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
    _write(writer, partial(_entries, model, config, plan, QUANTIZATIONS[quantization]))


def _entries(
    model: Any, config: SourceConfig, plan: Plan | None, type_: QuantType
) -> Iterator[_Entry]:
    output = "token_embd.weight" if config.tied_embeddings else "output.weight"
    output_type = QuantType.Q8_0 if type_ is QuantType.Q4_0 else type_
    for name, weight in model_tensors(model, config, plan):
        matrix_type = output_type if name == output else type_
        yield _Entry(name, weight, QuantType.F32 if weight.ndim == 1 else matrix_type)


def _stored_type(entry: _Entry) -> QuantType:
    block, _ = gguf.GGML_QUANT_SIZES[entry.type]
    return entry.type if entry.weight.shape[-1] % block == 0 else QuantType.F16


@torch.no_grad()
def _write(writer: Any, entries: Callable[[], Iterator[_Entry]]) -> None:
    """Two passes, so that one tensor that is not the model's own at a time is in memory."""
    for entry in entries():
        type_ = _stored_type(entry)
        block, block_bytes = gguf.GGML_QUANT_SIZES[type_]
        nbytes = entry.weight.numel() // block * block_bytes
        # The element type only matters where no raw type is given.
        writer.add_tensor_info(
            entry.name, tuple(entry.weight.shape), np.dtype(np.float32), nbytes, raw_dtype=type_
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry in entries():
            values = np.ascontiguousarray(entry.weight.float().numpy())
            writer.write_tensor_data(gguf.quants.quantize(values, _stored_type(entry)))
    except OSError as error:
        raise ElastifyError(f"{writer.path} cannot be written: {error}") from error
    finally:
        writer.close()


def _writer(
    path: Path,
    architecture: str,
    config: SourceConfig,
    vocabulary: Vocabulary,
    quantization: str,
    name: str,
) -> Any:
    if quantization not in QUANTIZATIONS:
        supported = ", ".join(QUANTIZATIONS)
        raise ElastifyError(f"quantization {quantization!r} is not one of {supported}")
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPES[quantization])
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
