"""Networks to train: fresh ones with a bundle's tokenizer, and those cut from BERT encoders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pliant.bundle import Bundle
from pliant.engine.tokenizer import Tokenizer
from pliant.errors import PliantError, TrainingError
from pliant.tlm.config import Activation, TlmConfig
from pliant.tlm.format import vocabulary_sha256
from pliant.tlm.tokenizers import SharedTokenizer
from pliant.tlm.training.network import TinyNetwork, Vocabulary
from pliant.tlm.training.weights import load_encoder
from pliant.tlm.wordpiece import CLS, SEP, WordPiece

BERT = "bert"
ENCODER_WINDOW = 256


@dataclass(frozen=True)
class Shape:
    """Sizes of a fresh encoder; the defaults are those of the built-in model's.

    They keep its cost within 15% of the built-in model's own: rectified units cost nothing beside
    gelu's error function, and short windows keep attention cheap.
    """

    hidden_size: int = 128
    ff: int = 256
    num_heads: int = 2
    trunk_layers: int = 1
    score_layers: int = 1
    decision_layers: int = 1
    window: int = 128
    activation: Activation = "relu"


def fresh_network(bundle: Bundle, shape: Shape | None = None, *, seed: int = 0) -> TinyNetwork:
    """An untrained network that reads with the bundle's own tokenizer and decides on its levels.

    Its trunk must be trained, too (`TrainOptions.train_trunk`). Raises BundleError for a bundle
    without a usable vocabulary or sizes that cannot be run.
    """
    tokenizer = Tokenizer(bundle.gguf.path)
    config = TlmConfig(
        **asdict(shape or Shape()),
        vocab_size=tokenizer.size + 2,
        cls_token=tokenizer.size,
        sep_token=tokenizer.size + 1,
        levels=tuple(level.ratio for level in bundle.levels),
        norm_eps=1e-5,
        tokenizer="bundle",
    )
    vocabulary = Vocabulary(SharedTokenizer(tokenizer), sha256=vocabulary_sha256(bundle.gguf))
    return _seeded(config, vocabulary, seed)


def encoder_network(
    folder: str | Path,
    levels: Sequence[float],
    *,
    trunk_layers: int | None = None,
    score_layers: int | None = None,
    decision_layers: int = 1,
    window: int = ENCODER_WINDOW,
    seed: int = 0,
) -> TinyNetwork:
    """From a BERT-type Hugging Face checkpoint with its WordPiece vocabulary, in `folder`.

    The bottom `trunk_layers` (default: half) are the trunk; both branches begin as layers above,
    the first `score_layers` (default: all) and the first `decision_layers` of them. `window` is at
    most what the encoder has positions for; attention over longer ones costs more than it tells.
    Raises TrainingError for another architecture or layers that are not there, BundleError for
    sizes that cannot be run.
    """
    encoder, tokenizer = _load_bert(Path(folder))
    found = encoder.config
    trunk = found.num_hidden_layers // 2 if trunk_layers is None else trunk_layers
    above = found.num_hidden_layers - trunk
    score = above if score_layers is None else score_layers
    if trunk < 1 or not (1 <= decision_layers <= above and 1 <= score <= above):
        raise TrainingError(
            f"{folder} has {found.num_hidden_layers} layers, which do not make a trunk of {trunk} "
            f"and branches of {score} and {decision_layers}"
        )
    positions = found.max_position_embeddings
    if window > positions:
        raise TrainingError(f"{folder} has {positions} positions, too few for windows of {window}")
    pieces, lowercase = _wordpiece(Path(folder), tokenizer)
    config = TlmConfig(
        hidden_size=found.hidden_size,
        ff=found.intermediate_size,
        num_heads=found.num_attention_heads,
        trunk_layers=trunk,
        score_layers=score,
        decision_layers=decision_layers,
        window=window,
        vocab_size=len(pieces),
        cls_token=pieces.index(CLS),
        sep_token=pieces.index(SEP),
        levels=tuple(map(float, levels)),
        activation=found.hidden_act,
        norm_eps=found.layer_norm_eps,
        tokenizer="wordpiece",
    )
    wordpiece = WordPiece(pieces, lowercase=lowercase)
    network = _seeded(config, Vocabulary(wordpiece, tuple(pieces), lowercase), seed)
    load_encoder(network, encoder)
    return network


def _seeded(config: TlmConfig, vocabulary: Vocabulary, seed: int) -> TinyNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyNetwork(config, vocabulary)


def _load_bert(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer as transformers reads them, from files of the folder only."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    if not (folder / "config.json").is_file():
        raise TrainingError(f"{folder} is no Hugging Face model folder: it has no config.json")
    try:
        _check_bert(folder, BertConfig.get_config_dict(folder, local_files_only=True)[0])
        encoder = BertModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
        return encoder, AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except PliantError:
        raise
    except Exception as error:  # transformers raises many kinds for damaged folders
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise TrainingError(f"{folder} is no encoder that transformers reads: {reason}") from error


def _check_bert(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    if kind != BERT:
        raise TrainingError(
            f"{folder} is a {kind} model; encoders of BERT's architecture are taken"
        )
    position = config.get("position_embedding_type", "absolute")
    if position != "absolute" or config.get("is_decoder"):
        raise TrainingError(
            f"{folder}: BERT with {position} positions, or as a decoder, is not run"
        )


def _wordpiece(folder: Path, tokenizer: Any) -> tuple[list[str], bool]:
    """The vocabulary by token id, and whether it is for lower-cased text."""
    read = json.loads(tokenizer.backend_tokenizer.to_str())
    model, normalizer = read["model"], read["normalizer"] or {}
    lowercase = normalizer.get("lowercase")
    strips = normalizer.get("strip_accents")
    if (
        model["type"] != "WordPiece"
        or normalizer.get("type") != "BertNormalizer"
        or strips not in (None, lowercase)
    ):
        raise TrainingError(f"{folder}: its tokenizer is not BERT's WordPiece")
    ids = model["vocab"]
    pieces = sorted(ids, key=ids.__getitem__)
    if [ids[piece] for piece in pieces] != list(range(len(pieces))):
        raise TrainingError(f"{folder}: its vocabulary has gaps")
    return pieces, bool(lowercase)
