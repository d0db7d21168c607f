"""Writes a model as a standard GGUF that llama.cpp and everything built on it reads.

A whole model is written as architecture `llama`; a stand-alone sub-model, whose layers differ
in size, as `deci`, the one for which llama.cpp reads per-layer sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType as QuantType

from pliant.bundle.plan import Plan
from pliant.elastify.source import RopeScaling, SourceConfig, config_of
from pliant.elastify.submodel import prefix
from pliant.elastify.units import PROJECTIONS
from pliant.elastify.vocabulary import Vocabulary
from pliant.errors import ElastifyError, PlanError

Array = npt.NDArray[Any]

QUANTIZATIONS = {"F16": QuantType.F16, "Q8_0": QuantType.Q8_0, "Q4_0": QuantType.Q4_0}
_FILE_TYPES = {
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}
_GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
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
    """Writes a transformers Llama-type model, whole, as architecture `llama`.

    `quantization` is a key of QUANTIZATIONS. Norms stay F32; in Q4_0 files the output matrix
    (the embeddings, if tied) is Q8_0; a matrix whose rows are not whole blocks is F16. Raises
    ElastifyError for an unknown quantization.
    """
    config = config_of(model.config)
    writer = _writer(path, "llama", config, vocabulary, quantization, name)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_feed_forward_length(config.ff)
    _write(writer, list(_entries(model, config, None, QUANTIZATIONS[quantization])))


def write_submodel_gguf(
    model: Any, plan: Plan, vocabulary: Vocabulary, path: Path, quantization: str, name: str
) -> None:
    """Writes only what `plan` runs of a reordered model, as architecture `deci`.

    Raises PlanError for what llama.cpp cannot run so: a first layer without attention (it takes
    the length of a head from there), or a layer without an MLP (it skips the attention too).
    """
    config = config_of(model.config)
    if plan.layers[0].kv_heads == 0 or any(layer.ff == 0 for layer in plan.layers):
        raise PlanError(
            "a stand-alone GGUF needs attention in its first layer and an MLP in every layer"
        )
    writer = _writer(path, "deci", config, vocabulary, quantization, name)
    writer.add_head_count([layer.heads for layer in plan.layers])
    writer.add_head_count_kv([layer.kv_heads for layer in plan.layers])
    writer.add_feed_forward_length([layer.ff for layer in plan.layers])
    _write(writer, list(_entries(model, config, plan, QUANTIZATIONS[quantization])))


def rope_factors(config: SourceConfig, scaling: RopeScaling) -> npt.NDArray[np.float32]:
    """Llama 3's divisor of each rotary frequency: float32 [head_dim / 2]."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    wavelengths = 2 * np.pi * config.rope_base**exponents
    # 0 for waves longer than the low-frequency bound (divided), 1 for short ones (kept).
    kept = (scaling.original_context / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    kept = np.clip(kept, 0.0, 1.0)
    return (1.0 / ((1.0 - kept) / scaling.factor + kept)).astype(np.float32)


def interleave_rotary(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows of q or k from transformers' halves to pairs: row i and i + head_dim/2 adjoin."""
    rows, columns = weight.shape
    halves = weight.reshape(rows // head_dim, 2, head_dim // 2, columns)
    return halves.transpose(1, 2).reshape(rows, columns)


def _entries(
    model: Any, config: SourceConfig, plan: Plan | None, type_: QuantType
) -> Iterator[_Entry]:
    output_type = QuantType.Q8_0 if type_ is QuantType.Q4_0 else type_
    embeddings = model.model.embed_tokens.weight
    yield _Entry("token_embd.weight", embeddings, output_type if config.tied_embeddings else type_)
    if not config.tied_embeddings:
        yield _Entry("output.weight", model.lm_head.weight, output_type)
    yield _Entry("output_norm.weight", model.model.norm.weight, QuantType.F32)
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3":
        factors = torch.from_numpy(rope_factors(config, config.rope_scaling))
        yield _Entry("rope_freqs.weight", factors, QuantType.F32)
    for index in range(config.num_layers):
        for name, weight in _layer_weights(model, config, plan, index):
            matrix_type = QuantType.F32 if weight.ndim == 1 else type_
            yield _Entry(f"blk.{index}.{name}.weight", weight, matrix_type)


def _layer_weights(
    model: Any, config: SourceConfig, plan: Plan | None, index: int
) -> Iterator[tuple[str, torch.Tensor]]:
    block = model.model.layers[index]
    layer = None if plan is None else plan.layers[index]
    if layer is None or layer.kv_heads:
        yield "attn_norm", block.input_layernorm.weight
    yield "ffn_norm", block.post_attention_layernorm.weight
    for projection in PROJECTIONS:
        weight = block.get_submodule(projection.name).weight
        if layer is not None:
            weight = prefix(weight, projection, config, layer)
        if projection.name in ("self_attn.q_proj", "self_attn.k_proj"):
            weight = interleave_rotary(weight, config.head_dim)
        if weight.numel():
            yield _GGUF_NAMES[projection.name], weight


def _stored_type(entry: _Entry) -> QuantType:
    block, _ = gguf.GGML_QUANT_SIZES[entry.type]
    return entry.type if entry.weight.shape[-1] % block == 0 else QuantType.F16


@torch.no_grad()
def _write(writer: Any, entries: list[_Entry]) -> None:
    """Two passes, so that one quantized tensor at a time is in memory."""
    for entry in entries:
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
        for entry in entries:
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
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_base)
    if config.rope_scaling is not None and config.rope_scaling.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_scaling.factor)
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
