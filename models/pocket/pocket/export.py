"""The trained network as a Hugging Face folder, and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .chat import CONTROL_TOKENS, END, PAD
from .model import Config, ElasticLlama


def save_hf(model: ElasticLlama, tokenizer_folder: Path, folder: Path) -> None:
    """Writes config, float32 weights and tokeniser; the head is tied, so it is not stored."""
    folder.mkdir(parents=True, exist_ok=True)
    end, pad = CONTROL_TOKENS.index(END), CONTROL_TOKENS.index(PAD)
    config = model.config.to_hf(end, pad)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": pad}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    weights = {k: v.detach().float().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_folder / name, folder / name)


def load_hf(folder: Path) -> ElasticLlama:
    """The network of a folder that :func:`save_hf` wrote."""
    raw = json.loads((folder / "config.json").read_text())
    config = Config(
        vocab_size=raw["vocab_size"],
        hidden_size=raw["hidden_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=raw["num_attention_heads"],
        intermediate_size=raw["intermediate_size"],
        max_positions=raw["max_position_embeddings"],
        rope_theta=raw["rope_theta"],
        norm_eps=raw["rms_norm_eps"],
    )
    model = ElasticLlama(config)
    weights = load_file(str(folder / "model.safetensors"))
    model.load_state_dict({k: v.to(torch.float32) for k, v in weights.items()})
    return model
