"""The built-in model as a Hugging Face folder, and its requests, for benchmarks that need torch."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from gguf import quants
from gguf.constants import GGMLQuantizationType
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from _requests import APPS, evaluation_scenes, training_conversations
from pliant.bundle import Bundle, open_bundle

CALIBRATION_CONVERSATIONS = 256
_CONTROL = 3  # GGUF token type
_MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def write_folder(folder: Path) -> None:
    """The weights of the shipped bundle, dequantized, in the order they are shipped in."""
    bundle = open_bundle("pocket")
    a = bundle.architecture
    config = LlamaConfig(
        hidden_size=a.hidden_size,
        num_hidden_layers=a.num_layers,
        num_attention_heads=a.num_heads,
        num_key_value_heads=a.num_kv_heads,
        head_dim=a.head_dim,
        intermediate_size=a.ff,
        vocab_size=a.vocab_size,
        max_position_embeddings=a.context_length,
        rms_norm_eps=a.rms_eps,
        rope_theta=a.rope_base,
        tie_word_embeddings=a.tied_embeddings,
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(_weights(bundle), strict=False)
    model.save_pretrained(folder)
    pocket_tokenizer(bundle).save_pretrained(folder)


def write_requests(folder: Path, per_app: int, seed: int) -> tuple[Path, Path]:
    """Calibration conversations and evaluation rows as the files the benchmark takes."""
    calibration, rows = folder / "calibration.jsonl", folder / "eval.jsonl"
    _write_conversations(calibration, training_conversations(CALIBRATION_CONVERSATIONS))
    scenes = [scene for app in APPS for scene in evaluation_scenes(app, per_app, seed)]
    rows.write_text("".join(json.dumps(scene.row("generated")) + "\n" for scene in scenes))
    return calibration, rows


def write_conversations(
    folder: Path, count: int, held_out_per_app: int, seed: int
) -> tuple[Path, Path]:
    """Recovery data: conversations as the model was trained on, and others with new entities."""
    held_out = [scene for app in APPS for scene in evaluation_scenes(app, held_out_per_app, seed)]
    paths = folder / "recovery.jsonl", folder / "held-out.jsonl"
    _write_conversations(paths[0], training_conversations(count, seed + 1))
    _write_conversations(paths[1], [scene.conversation() for scene in held_out])
    return paths


def _write_conversations(path: Path, conversations: list[list[dict[str, str]]]) -> None:
    rows = (json.dumps({"messages": messages}) + "\n" for messages in conversations)
    path.write_text("".join(rows))


def _weights(bundle: Bundle) -> dict[str, torch.Tensor]:
    state = {
        "model.embed_tokens.weight": _tensor(bundle, "token_embd.weight"),
        "lm_head.weight": _tensor(bundle, "token_embd.weight"),
        "model.norm.weight": _tensor(bundle, "output_norm.weight"),
    }
    for layer in range(bundle.architecture.num_layers):
        for short, module in _MODULES.items():
            weight = _tensor(bundle, f"blk.{layer}.{short}.weight")
            if short in ("attn_q", "attn_k"):
                weight = _half_split(weight, bundle.architecture.head_dim)
            state[f"model.layers.{layer}.{module}.weight"] = weight
    return state


def _tensor(bundle: Bundle, name: str) -> torch.Tensor:
    info = bundle.gguf.tensors[name]
    kind = GGMLQuantizationType(int(info.type))
    data = torch.frombuffer(bytearray(bundle.gguf.tensor_bytes(name)), dtype=torch.uint8).numpy()
    values = torch.from_numpy(quants.dequantize(data, kind).copy())
    return values.reshape(info.shape[::-1])


def _half_split(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows from GGUF's interleaved rotary pairs back to transformers' two halves."""
    rows, columns = weight.shape
    pairs = weight.reshape(rows // head_dim, head_dim // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def pocket_tokenizer(bundle: Bundle) -> PreTrainedTokenizerFast:
    data = bundle.gguf.metadata
    tokens = list(data["tokenizer.ggml.tokens"])
    merges = [tuple(merge.split(" ", 1)) for merge in data["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, data["tokenizer.ggml.token_type"], strict=True)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, t in kinds if t == _CONTROL]
    )
    eos = tokens[data["tokenizer.ggml.eos_token_id"]]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, chat_template=data["tokenizer.chat_template"]
    )
