"""The dual-head encoder in torch, for training; `pliant.tlm.graph` computes the same with ggml.

Embeddings and the bottom layers (the trunk) are shared: one pass over the text serves both heads.
The SLO tokens therefore join only where the decision branch begins, in front of the trunk's
output, so that scores cannot depend on the SLO.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pliant.tlm.config import TlmConfig
from pliant.tlm.slo_tokens import NUM_SLO_TOKENS
from pliant.tlm.tokens import TextTokenizer

# The TTFT token, the TPOT token and [CLS]: what the decision is pooled from.
SUMMARY = 3
INIT_STD = 0.02


@dataclass(frozen=True)
class Vocabulary:
    """How texts become tokens: the tokenizer, and what the file must say to make it again.

    `pieces` by token id and `lowercase` for WordPiece; `sha256` for the bundle's own vocabulary.
    """

    tokenizer: TextTokenizer
    pieces: tuple[str, ...] = ()
    lowercase: bool = False
    sha256: str | None = None


class Layer(nn.Module):
    """BERT's layer: self-attention and MLP, each added to its input and then normed."""

    def __init__(self, config: TlmConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self._heads = config.num_heads
        self.attn_qkv = nn.Linear(d, 3 * d)
        self.attn_output = nn.Linear(d, d)
        self.attn_norm = nn.LayerNorm(d, eps=config.norm_eps)
        self.ffn_up = nn.Linear(d, config.ff)
        self.ffn_down = nn.Linear(config.ff, d)
        self.ffn_norm = nn.LayerNorm(d, eps=config.norm_eps)
        self._act = nn.GELU() if config.activation == "gelu" else nn.ReLU()

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """x [windows, n, hidden]; visible, bool [windows, n], says which tokens are no padding."""
        x = self.attn_norm(x + self.attn_output(self._attend(x, visible)))
        hidden: Tensor = self.ffn_norm(x + self.ffn_down(self._act(self.ffn_up(x))))
        return hidden

    def _attend(self, x: Tensor, visible: Tensor) -> Tensor:
        windows, n, d = x.shape
        split = self.attn_qkv(x).view(windows, n, 3, self._heads, d // self._heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mask = visible[:, None, None, :]
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return attended.transpose(1, 2).reshape(windows, n, d)


class TinyNetwork(nn.Module):
    """`trunk`, then `score` and `decide` on its output."""

    def __init__(self, config: TlmConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        d = config.hidden_size
        self.config = config
        self.vocabulary = vocabulary
        self.token_embd = nn.Embedding(config.vocab_size, d)
        self.position_embd = nn.Embedding(config.window, d)
        self.embd_norm = nn.LayerNorm(d, eps=config.norm_eps)
        self.slo_embd = nn.Embedding(NUM_SLO_TOKENS, d)
        self.trunk = nn.ModuleList(Layer(config) for _ in range(config.trunk_layers))
        self.score = nn.ModuleList(Layer(config) for _ in range(config.score_layers))
        self.decision = nn.ModuleList(Layer(config) for _ in range(config.decision_layers))
        self.score_head = nn.Linear(d, 1)
        self.pooler = nn.Linear(d, d)
        self.prompt_ratio_head = nn.Linear(d, len(config.prompt_ratios))
        self.level_head = nn.Linear(d, len(config.levels))
        self.apply(_initialize)
        with torch.no_grad():
            self.slo_embd.weight.copy_(orthogonal_rows(NUM_SLO_TOKENS, d))

    def read(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """The trunk's output [windows, n, hidden] for tokens int64 [windows, n].

        `visible`, bool [windows, n], is false for padding.
        """
        x = self.token_embd(tokens) + self.position_embd.weight[: tokens.shape[1]]
        x = self.embd_norm(x)
        for layer in self.trunk:
            x = layer(x, visible)
        return x

    def score_logits(self, x: Tensor, visible: Tensor) -> Tensor:
        """Logits of keeping each token [windows, n], from the trunk's output."""
        for layer in self.score:
            x = layer(x, visible)
        logits: Tensor = self.score_head(x).squeeze(-1)
        return logits

    def decision_logits(
        self, x: Tensor, visible: Tensor, owners: Tensor, slo: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits over prompt ratios and over levels, [examples, ratios] and [examples, levels].

        x and visible as the trunk has them, one or more windows per example; `owners`, int64
        [windows], says whose each is; `slo`, int64 [examples, 2], holds the SLO tokens.
        """
        x = torch.cat([self.slo_embd(slo)[owners], x], dim=1)
        visible = torch.cat([visible.new_ones(len(x), slo.shape[1]), visible], dim=1)
        for layer in self.decision:
            x = layer(x, visible)
        summary = x[:, :SUMMARY].mean(dim=1)
        sums = summary.new_zeros(len(slo), x.shape[2]).index_add(0, owners, summary)
        windows = torch.bincount(owners, minlength=len(slo))[:, None]
        pooled = torch.tanh(self.pooler(sums / windows))
        return self.prompt_ratio_head(pooled), self.level_head(pooled)


def orthogonal_rows(count: int, size: int) -> Tensor:
    """One-hot rows as long as a normed state, [count, size]: SLO tokens begin orthogonal."""
    return torch.eye(count, size) * math.sqrt(size)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
