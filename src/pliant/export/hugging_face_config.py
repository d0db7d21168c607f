"""The config.json of a level: what transformers must know of it, in the names that its versions 4
and 5 both read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pliant.bundle import Architecture, Bundle, Plan
from pliant.bundle.tensors import LONG_FACTORS, SHORT_FACTORS
from pliant.errors import UnsupportedModelError

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
# Model types that GGUF files call otherwise; a Mistral is a `llama` there.
_MODEL_TYPES = {"gemma3": "gemma3_text"}


def has_own_sizes(architecture: Architecture, plan: Plan) -> bool:
    """Whether transformers can have a model with the plan's sizes, alike in all layers.

    It wants a number of heads that divides the hidden size; where q, k and v are fused it takes
    the size of a head from the two.
    """
    first = plan.layers[0]
    if len(set(plan.layers)) > 1 or first.kv_heads == 0 or first.ff == 0:
        return False
    if architecture.family.is_fused:
        return first.heads == architecture.num_heads
    return architecture.hidden_size % first.heads == 0


def model_config(bundle: Bundle, plan: Plan) -> dict[str, Any]:
    """Raises UnsupportedModelError for rotary factors of which nobody knows where they are from."""
    a, source = bundle.architecture, _source(bundle)
    layer = (plan if has_own_sizes(a, plan) else Plan.full(a)).layers[0]
    model_type = _MODEL_TYPES.get(a.name, a.name)
    if a.name == "llama" and source.get("model_type") == "mistral":
        model_type = "mistral"
    return {
        "architectures": [_CLASSES[model_type]],
        "model_type": model_type,
        "hidden_size": a.hidden_size,
        "num_hidden_layers": a.num_layers,
        "num_attention_heads": layer.heads,
        "num_key_value_heads": layer.kv_heads,
        "head_dim": a.head_dim,
        "intermediate_size": layer.ff,
        "vocab_size": a.vocab_size,
        "max_position_embeddings": a.context_length,
        "rms_norm_eps": a.rms_eps,
        "rope_theta": a.rope_base,
        "rope_scaling": _rope_scaling(bundle, source),
        "tie_word_embeddings": a.tied_embeddings,
        "sliding_window": a.sliding_window,
        **_family_fields(a),
        **_token_ids(bundle),
    }


def _source(bundle: Bundle) -> Mapping[str, Any]:
    """What the provenance says of the checkpoint that the bundle was made from."""
    source = {} if bundle.manifest is None else bundle.manifest.provenance.get("source")
    return source if isinstance(source, Mapping) else {}


def _token_ids(bundle: Bundle) -> dict[str, Any]:
    keys = {"bos": "bos", "eos": "eos", "pad": "padding"}
    metadata = bundle.gguf.metadata
    return {
        f"{name}_token_id": metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in keys.items()
    }


def _family_fields(a: Architecture) -> dict[str, Any]:
    family = a.family
    fields: dict[str, Any] = {"torch_dtype": "float16"}
    if family.activation == "gelu":  # of the Gemmas, whose activations exceed the range of F16
        fields = {"torch_dtype": "float32", "hidden_activation": "gelu_pytorch_tanh"}
        fields["query_pre_attn_scalar"] = round(a.attention_scale**-2)
        fields["attn_logit_softcapping"] = a.attention_softcap or None
        fields["final_logit_softcapping"] = a.final_softcap or None
    else:
        fields["hidden_act"] = "silu"
    if family.nope_interval:
        fields["no_rope_layer_interval"] = family.nope_interval
    if family.is_fused:
        fields["partial_rotary_factor"] = a.rope_dim / a.head_dim
        fields["original_max_position_embeddings"] = a.rope_original_context
    if a.sliding_interval:
        fields["layer_types"] = [
            "sliding_attention" if a.is_sliding(layer) else "full_attention"
            for layer in range(a.num_layers)
        ]
    if family.sliding_rope_base is not None:
        fields["rope_local_base_freq"] = a.sliding_rope_base
    return fields


def _rope_scaling(bundle: Bundle, source: Mapping[str, Any]) -> dict[str, Any] | None:
    a = bundle.architecture
    if a.rope_dim != a.head_dim and not a.family.is_fused:
        raise UnsupportedModelError("heads that rotate in part have no Hugging Face configuration")
    if a.has_long_factors:
        return _longrope(bundle)
    if a.rope_scaling_type == "linear":
        return {"rope_type": "linear", "factor": a.rope_scaling_factor}
    if not a.has_rope_factors:
        return None
    scaling = source.get("rope_scaling")
    if not isinstance(scaling, Mapping) or scaling.get("kind") != "llama3":
        raise UnsupportedModelError(
            f"{bundle.name} has rotary factors, and its provenance does not say what they were "
            "made from; a Hugging Face configuration needs that"
        )
    keys = ("factor", "low_freq_factor", "high_freq_factor")
    found = {"rope_type": "llama3", **{key: scaling.get(key) for key in keys}}
    return found | {"original_max_position_embeddings": scaling.get("original_context")}


def _longrope(bundle: Bundle) -> dict[str, Any]:
    a = bundle.architecture
    scaling: dict[str, Any] = {
        "type": "longrope",
        "short_factor": _floats(bundle, SHORT_FACTORS),
        "long_factor": _floats(bundle, LONG_FACTORS),
    }
    # transformers 4 takes these three fields only, and computes the factor (arXiv 2402.13753).
    longer = math.log(a.context_length / a.rope_original_context)
    usual = math.sqrt(1 + max(0.0, longer) / math.log(a.rope_original_context))
    if not math.isclose(a.rope_attention_factor, usual, rel_tol=1e-6):
        scaling["attention_factor"] = a.rope_attention_factor
    return scaling


def _floats(bundle: Bundle, tensor: str) -> list[float]:
    """In as few digits as tell one float32 from the next."""
    values = np.frombuffer(bundle.gguf.tensor_bytes(tensor), np.float32)
    return [float(str(value)) for value in values]
