"""The dual-head encoder in torch, for training; `pliant.tlm.graph` computes the same with ggml.

Embeddings and the bottom layers (the trunk) are shared: one pass over the text serves both heads.
The SLO tokens therefore join only where the decision branch begins, in front of the trunk's
output, so that scores cannot depend on the SLO.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from pliant.tlm.config import TlmConfig
from pliant.tlm.slo_tokens import NUM_SLO_TOKENS, SLO, SUMMARY
from pliant.tlm.tokens import TextTokenizer

EMBEDDING_STD = 0.02


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

    def forward(self, x: Tensor, visible: Tensor, queries: int | None = None) -> Tensor:
        """x [windows, n, hidden]; visible, bool [windows, n], says which tokens are no padding.

        With `queries`, the output of the first so many tokens alone.
        """
        attended = self._attend(x, visible, queries)
        x = self.attn_norm(x[:, :queries] + self.attn_output(attended))
        hidden: Tensor = self.ffn_norm(x + self.ffn_down(self._act(self.ffn_up(x))))
        return hidden

    def _attend(self, x: Tensor, visible: Tensor, queries: int | None) -> Tensor:
        d, weight, bias = x.shape[2], self.attn_qkv.weight, self.attn_qkv.bias
        q = linear(x[:, :queries], weight[:d], bias[:d])
        k, v = linear(x, weight[d:], bias[d:]).chunk(2, dim=-1)
        q, k, v = (self._split(part) for part in (q, k, v))
        attended = scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None, None, :])
        return attended.transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        """[windows, n, hidden] to [windows, heads, n, head_dim]."""
        return x.view(*x.shape[:2], self._heads, -1).transpose(1, 2)


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
        return _through(self.trunk, self.embd_norm(x), visible)

    def score_logits(self, x: Tensor, visible: Tensor) -> Tensor:
        """Logits of keeping each token [windows, n], from the trunk's output."""
        logits: Tensor = self.score_head(_through(self.score, x, visible))
        return logits.squeeze(-1)

    def decision_logits(
        self, x: Tensor, visible: Tensor, owners: Tensor, slo: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits over prompt ratios and over levels, [examples, ratios] and [examples, levels].

        x and visible as the trunk has them, one or more windows per example; `owners`, int64
        [windows], says whose each is; `slo`, int64 [examples, 2], holds the SLO tokens.
        """
        x = torch.cat([self.slo_embd(slo)[owners], x], dim=1)
        visible = torch.cat([visible.new_ones(len(x), SLO), visible], dim=1)
        x = _through(self.decision[:-1], x, visible)
        summary = self.decision[-1](x, visible, SUMMARY).mean(dim=1)
        sums = summary.new_zeros(len(slo), x.shape[2]).index_add(0, owners, summary)
        windows = torch.bincount(owners, minlength=len(slo))[:, None]
        pooled = torch.tanh(self.pooler(sums / windows))
        return self.prompt_ratio_head(pooled), self.level_head(pooled)


def _through(layers: Iterable[nn.Module], x: Tensor, visible: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x, visible)
    return x


def orthogonal_rows(count: int, size: int) -> Tensor:
    """One-hot rows as long as a normed state, [count, size]: SLO tokens begin orthogonal."""
    return torch.eye(count, size) * math.sqrt(size)


def _initialize(module: nn.Module) -> None:
    """Linear layers keep the size of what passes through; BERT's 0.02 suits widths about 768 and
    lets the words of a text fade to nothing in a narrow network."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=EMBEDDING_STD)
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        nn.init.zeros_(module.bias)
