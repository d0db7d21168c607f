"""Make small random Hugging Face folders, of every family, with real tokenizers."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, trainers
from transformers import AutoConfig, AutoModelForCausalLM

from pliant.elastify.families import SOURCES
from support.tiny_gguf import BOS, CHAT_TEMPLATE, CORPUS, EOS, make_tokenizer

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}


IDENTIFIERS = {
    "vocab_size": 320,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": None,
}
# What makes each family's small model differ in every way from a Llama.
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.5, 2.0],
    "long_factor": [1.0, 4.0, 9.0],
    "factor": 4.0,
}
LONGROPE_CONTEXT = 256  # llama.cpp has no shorter contexts
WINDOW = 16
_GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW}
FEATURES: dict[str, dict[str, Any]] = {
    "smollm3": {"num_hidden_layers": 4},
    "qwen3": {"head_dim": 16},
    "phi3": {
        "rope_parameters": LONGROPE,
        "original_max_position_embeddings": LONGROPE_CONTEXT,
        "max_position_embeddings": 4 * LONGROPE_CONTEXT,
    },
    "gemma2": {**_GEMMA, "attn_logit_softcapping": 4.0, "final_logit_softcapping": 8.0},
    "gemma3_text": {
        **_GEMMA,
        "num_hidden_layers": 6,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
}


def make_model(kind: str = "llama", seed: int = 0, **overrides: Any) -> Any:
    """A random model in float32 and eval mode; `overrides` are transformers config fields."""
    fields = {**IDENTIFIERS, **SHAPE, **FEATURES.get(kind, {}), **overrides}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields)).eval()
    norm = 1.0 - SOURCES[kind].family.norm_shift
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Far from the initialisation's near-zero logits, so that mistakes show.
            scale, shift = (0.2, norm) if "norm" in name else (0.15, 0.0)
            parameter.copy_(torch.randn_like(parameter) * scale + shift)
    return model


def make_folder(folder: Path, kind: str = "llama", **overrides: Any) -> Path:
    """A whole model folder: config.json, model.safetensors, byte-level tokenizer."""
    make_model(kind, **overrides).save_pretrained(folder)
    write_tokenizer(folder, json.loads(make_tokenizer().to_str()))
    return folder


def write_tokenizer(folder: Path, spec: dict[str, Any], **config: Any) -> None:
    """Writes tokenizer.json and a tokenizer_config.json for it."""
    content = {added["id"]: added["content"] for added in spec["added_tokens"]}
    defaults = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": content.get(BOS),
        "eos_token": content.get(EOS),
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({**defaults, **config}))


def byte_level_spec(pre_tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The byte-level tokenizer with another way to split the text."""
    spec = copy.deepcopy(json.loads(make_tokenizer().to_str()))
    spec["pre_tokenizer"] = pre_tokenizer
    return spec


def sentencepiece_spec(vocab: int = 400) -> dict[str, Any]:
    """A Llama-2-like tokenizer.json: byte fallback, spaces as a letter, merges of every split."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    text = [("\u2581" + line.strip()).replace(" ", "\u2581") for line in CORPUS]
    trainer = trainers.BpeTrainer(vocab_size=vocab - 259, show_progress=False)
    tokenizer.train_from_iterator(text, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    special = ["<unk>", "<s>", "</s>"]
    pieces = special + [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {text: index for index, text in enumerate([*pieces, *trained["vocab"]])}
    merges = [
        [piece[:at], piece[at:]]
        for piece in trained["vocab"]
        for at in range(1, len(piece))
        if piece[:at] in trained["vocab"] and piece[at:] in trained["vocab"]
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(index, text) for index, text in enumerate(special)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": _begin_with("<s>", 1),
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _added(index: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, "special": True, **flags}


def _begin_with(token: str, index: int) -> dict[str, Any]:
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    other = {"Sequence": {"id": "B", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, other],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]}},
    }
