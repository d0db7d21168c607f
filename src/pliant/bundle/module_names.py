"""What a Hugging Face checkpoint calls the modules of a layer, by the names of GGUF files."""

from types import MappingProxyType

from pliant.bundle.family import Family

PROJECTION_MODULES = MappingProxyType(
    {
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
)
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_NORMS_ON_BOTH_SIDES = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def norm_modules(family: Family) -> dict[str, str]:
    """The norms of a layer: module by GGUF name."""
    norms = _NORMS_ON_BOTH_SIDES if family.has_post_norms else _NORMS
    return norms | (_QK_NORMS if family.has_qk_norm else {})
