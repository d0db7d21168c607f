"""Copies the weights of transformers' BertModel into a network."""

from __future__ import annotations

from typing import Any

import torch

from pliant.errors import TrainingError
from pliant.tlm.training.network import Layer, TinyNetwork


@torch.no_grad()
def load_encoder(network: TinyNetwork, encoder: Any) -> None:
    """Trunk and branches begin as the encoder's layers; the embedding of the first segment, which
    every token belongs to, is added to the positions'."""
    config, embeddings = network.config, encoder.embeddings
    words = embeddings.word_embeddings.weight
    if len(words) < config.vocab_size:
        raise TrainingError(f"{config.vocab_size} pieces, but the encoder embeds {len(words)}")
    network.token_embd.weight.copy_(words[: config.vocab_size])
    positions = embeddings.position_embeddings.weight[: config.window]
    network.position_embd.weight.copy_(positions + embeddings.token_type_embeddings.weight[0])
    network.embd_norm.load_state_dict(embeddings.LayerNorm.state_dict())
    layers = list(encoder.encoder.layer)
    above = layers[config.trunk_layers :]
    for targets, sources in (
        (network.trunk, layers),
        (network.score, above),
        (network.decision, above),
    ):
        for target, source in zip(targets, sources, strict=False):
            assert isinstance(target, Layer)
            _load_layer(target, source)
    if encoder.pooler is not None:
        network.pooler.load_state_dict(encoder.pooler.dense.state_dict())


def _load_layer(target: Layer, source: Any) -> None:
    attention = source.attention
    parts = [attention.self.query, attention.self.key, attention.self.value]
    target.attn_qkv.weight.copy_(torch.cat([part.weight for part in parts]))
    target.attn_qkv.bias.copy_(torch.cat([part.bias for part in parts]))
    target.attn_output.load_state_dict(attention.output.dense.state_dict())
    target.attn_norm.load_state_dict(attention.output.LayerNorm.state_dict())
    target.ffn_up.load_state_dict(source.intermediate.dense.state_dict())
    target.ffn_down.load_state_dict(source.output.dense.state_dict())
    target.ffn_norm.load_state_dict(source.output.LayerNorm.state_dict())
