"""The network of the built-in model, trainable at any prefix width.

The parameters carry the names and shapes of transformers' ``LlamaForCausalLM``, so a
state dict moves between the two unchanged.  A forward pass may be given ``Widths``: per
layer only the first heads and the first feed-forward neurons are then used, by slicing
the weights.  Nothing here knows about data, losses or optimisers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

FF_STEP = 32


@dataclass(frozen=True)
class Config:
    """Shape of the network; the defaults are the published model."""

    vocab_size: int = 2048
    hidden_size: int = 256
    num_layers: int = 6
    num_heads: int = 8
    intermediate_size: int = 768
    max_positions: int = 1024
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    def to_hf(self, eos_id: int, pad_id: int) -> dict[str, object]:
        """The content of ``config.json`` for the same network in transformers."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_positions,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.norm_eps,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": eos_id,
            "eos_token_id": eos_id,
            "pad_token_id": pad_id,
            "torch_dtype": "float32",
        }


@dataclass(frozen=True)
class Width:
    """How much of one layer runs: the first ``heads`` heads and first ``ff`` neurons."""

    heads: int
    ff: int


Widths = Sequence[Width]


def width_at(config: Config, ratio: float) -> Width:
    """One layer cut to ``ratio``, at least one head and ``FF_STEP`` neurons."""
    heads = min(config.num_heads, max(1, round(ratio * config.num_heads)))
    steps = config.intermediate_size // FF_STEP
    return Width(heads, min(steps, max(1, round(ratio * steps))) * FF_STEP)


def uniform_widths(config: Config, ratio: float) -> list[Width]:
    """All layers at the same ratio."""
    return [width_at(config, ratio)] * config.num_layers


def random_widths(config: Config, rng: random.Random, low: float = 0.12) -> list[Width]:
    """Widths around one drawn ratio, independent per layer, some layers left full."""
    ratio = rng.uniform(low, 1.0)
    anchor_share = rng.choice((0.0, 0.0, 0.17, 0.34))
    widths = []
    for _ in range(config.num_layers):
        own = 1.0 if rng.random() < anchor_share else ratio + rng.uniform(-0.15, 0.15)
        heads = width_at(config, min(1.0, max(low, own))).heads
        own = own if own == 1.0 else ratio + rng.uniform(-0.15, 0.15)
        widths.append(Width(heads, width_at(config, min(1.0, max(low, own))).ff))
    return widths


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = functional.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return normed


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the pairs (i, i + half) of the last axis; ``cos`` and ``sin`` are half as wide."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Plain matmul attention: faster on a CPU in training than the fused kernel.

    The scores stay in the type of the product; softmax itself sums in float32.
    """
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    with torch.autocast("cpu", enabled=False):
        weights = torch.softmax(scores + mask.to(scores.dtype), dim=-1)
        return torch.matmul(weights, v)


class _Layout(NamedTuple):
    """Rotations ``[length, head_dim / 2]`` and the additive mask ``[length, length]``."""

    cos: Tensor
    sin: Tensor
    mask: Tensor


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        size = config.hidden_size
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(size, size, bias=False)
        self.k_proj = nn.Linear(size, size, bias=False)
        self.v_proj = nn.Linear(size, size, bias=False)
        self.o_proj = nn.Linear(size, size, bias=False)

    def forward(self, x: Tensor, layout: _Layout, heads: int) -> Tensor:
        batch, length, _ = x.shape
        used = heads * self.head_dim
        stacked = torch.cat([p.weight[:used] for p in (self.q_proj, self.k_proj, self.v_proj)])
        qkv = functional.linear(x, stacked).view(batch, length, 3, heads, self.head_dim)
        q, k, v = qkv.transpose(1, 3).unbind(2)
        q, k = _rotate(q, layout.cos, layout.sin), _rotate(k, layout.cos, layout.sin)
        mixed = _attend(q, k, v, layout.mask)
        mixed = mixed.transpose(1, 2).reshape(batch, length, used)
        return functional.linear(mixed, self.o_proj.weight[:, :used])


class FeedForward(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(size, inner, bias=False)
        self.up_proj = nn.Linear(size, inner, bias=False)
        self.down_proj = nn.Linear(inner, size, bias=False)

    def forward(self, x: Tensor, ff: int) -> Tensor:
        gate = functional.silu(functional.linear(x, self.gate_proj.weight[:ff]))
        up = functional.linear(x, self.up_proj.weight[:ff])
        return functional.linear(gate * up, self.down_proj.weight[:, :ff])


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor, layout: _Layout, width: Width) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), layout, width.heads)
        fed: Tensor = self.mlp(self.post_attention_layernorm(x), width.ff)
        return x + fed


class _Body(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)


class ElasticLlama(nn.Module):
    """Causal language model of token ids ``[batch, length]`` to logits."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = _Body(config)
        angles = _rope_angles(config)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self._init_weights()

    def _init_weights(self) -> None:
        residual_std = 0.02 / math.sqrt(2 * self.config.num_layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                ends_block = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=residual_std if ends_block else 0.02)

    def forward(
        self,
        tokens: Tensor,
        widths: Widths | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Logits at every token.

        Without ``positions`` and ``mask`` (additive, ``[length, length]``) the tokens are
        one causal sequence; with them, several continuations may share one prompt.
        """
        length = tokens.shape[1]
        widths = widths or uniform_widths(self.config, 1.0)
        positions = torch.arange(length) if positions is None else positions
        mask = torch.full((length, length), -1e9).triu_(1) if mask is None else mask
        layout = _Layout(self.cos[positions], self.sin[positions], mask)
        x = self.model.embed_tokens(tokens)
        for layer, width in zip(self.model.layers, widths, strict=True):
            x = layer(x, layout, width)
        return functional.linear(self.model.norm(x), self.model.embed_tokens.weight)


def _rope_angles(config: Config) -> Tensor:
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    frequencies = config.rope_theta**-exponents
    positions = torch.arange(config.max_positions, dtype=torch.float64)
    return torch.outer(positions, frequencies).float()
