"""The network against transformers' BertModel, and how the SLO tokens take part."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from pliant.tlm.config import TlmConfig
from pliant.tlm.slo_tokens import NUM_SLO_TOKENS, SUMMARY
from pliant.tlm.training.network import TinyNetwork, Vocabulary, orthogonal_rows
from pliant.tlm.training.weights import load_encoder
from pliant.tlm.wordpiece import WordPiece
from support.tiny_tlm import pieces, wordpiece

LAYERS = 4


def encoder(**changes: Any) -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=300,
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
        initializer_range=0.2,
        **changes,
    )
    return BertModel(config).eval()


def network_of(model: BertModel, trunk: int, decision: int = 1) -> TinyNetwork:
    c = model.config
    config = TlmConfig(
        hidden_size=c.hidden_size,
        ff=c.intermediate_size,
        num_heads=c.num_attention_heads,
        trunk_layers=trunk,
        score_layers=c.num_hidden_layers - trunk,
        decision_layers=decision,
        window=48,
        vocab_size=250,
        cls_token=2,
        sep_token=3,
        levels=(0.5, 1.0),
        activation=c.hidden_act,
        tokenizer="wordpiece",
    )
    vocabulary = Vocabulary(WordPiece(pieces(wordpiece()), lowercase=True))
    network = TinyNetwork(config, vocabulary)
    load_encoder(network, model)
    return network


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(0, 250, (3, 20), generator=torch.Generator().manual_seed(1))
    visible = torch.arange(20) < torch.tensor([20, 11, 2])[:, None]
    return tokens, visible


@pytest.mark.parametrize("act", ["gelu", "relu"])
@pytest.mark.parametrize("trunk", [1, 3])
@torch.no_grad()
def test_hidden_states_are_transformers(
    batch: tuple[torch.Tensor, torch.Tensor], act: str, trunk: int
) -> None:
    tokens, visible = batch
    model = encoder(hidden_act=act)
    states = model(tokens, attention_mask=visible.long(), output_hidden_states=True).hidden_states
    network = network_of(model, trunk)
    found = network.read(tokens, visible)
    np.testing.assert_allclose(found[visible], states[trunk][visible], atol=2e-5)
    head = network.score_head
    expected = states[LAYERS] @ head.weight[0] + head.bias
    logits = network.score_logits(found, visible)
    np.testing.assert_allclose(logits[visible], expected[visible], atol=2e-5)


@torch.no_grad()
def test_the_decision_is_the_encoders_layers_over_slo_tokens_and_trunk(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Computed by transformers' own layers, all of their output, one window at a time."""
    tokens, visible = batch
    model = encoder()
    network = network_of(model, 2, decision=2)
    slo = torch.tensor([[1, 10], [4, 12]])
    owners = torch.tensor([0, 0, 1])
    x = network.read(tokens, visible)
    summaries = []
    for row, owner in enumerate(owners):
        h = torch.cat([network.slo_embd(slo[owner]), x[row, visible[row]]])[None]
        for layer in model.encoder.layer[2:4]:
            h = layer(h)[0] if isinstance(layer(h), tuple) else layer(h)
        summaries.append(h[0, :SUMMARY].mean(dim=0))
    pooled = torch.stack([(summaries[0] + summaries[1]) / 2, summaries[2]])
    pooled = torch.tanh(network.pooler(pooled))
    ratios, levels = network.decision_logits(x, visible, owners, slo)
    np.testing.assert_allclose(ratios, network.prompt_ratio_head(pooled), atol=2e-5)
    np.testing.assert_allclose(levels, network.level_head(pooled), atol=2e-5)


def test_slo_tokens_begin_orthogonal_and_as_long_as_a_normed_state() -> None:
    rows = orthogonal_rows(NUM_SLO_TOKENS, 64)
    np.testing.assert_allclose(rows @ rows.T, 64 * np.eye(NUM_SLO_TOKENS), atol=1e-4)
