"""`tlm.gguf`: a tiny language model on disk, checked before anything of it is run.

The file holds the tokenizer's vocabulary (WordPiece), or the sha256 of the vocabulary of the model
it lies beside. Matrices are Q8_0, F16 or F32; vectors, position and SLO embeddings and the heads
are F32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as shorten

import numpy as np

from pliant.bundle.cursor import StringArray
from pliant.bundle.gguf import GgufFile
from pliant.bundle.keys import Keys
from pliant.errors import BundleError, CorruptFileError, UnsupportedModelError
from pliant.ggml.types import GgmlType
from pliant.tlm.config import TlmConfig
from pliant.tlm.slo_tokens import NUM_SLO_TOKENS

ARCHITECTURE = "pliant-tlm"
VERSION = 1

MATRIX_TYPES = (GgmlType.Q8_0, GgmlType.F16, GgmlType.F32)
BRANCHES = ("trunk", "score", "decision")

VERSION_KEY = f"{ARCHITECTURE}.version"
TOKENS_KEY = "tokenizer.ggml.tokens"
LOWERCASE_KEY = f"{ARCHITECTURE}.tokenizer.lowercase"
VOCABULARY_KEY = f"{ARCHITECTURE}.tokenizer.sha256"

# Field of TlmConfig: its key in the file.
SIZE_KEYS = {
    "hidden_size": "embedding_length",
    "ff": "feed_forward_length",
    "num_heads": "attention.head_count",
    "trunk_layers": "trunk.block_count",
    "score_layers": "score.block_count",
    "decision_layers": "decision.block_count",
    "window": "window_length",
    "vocab_size": "vocab_size",
}
TOKEN_KEYS = {"cls_token": "cls_token_id", "sep_token": "sep_token_id"}
LADDER_KEYS = {"levels": "levels", "prompt_ratios": "prompt_ratios"}
TEXT_KEYS = {"activation": "activation", "tokenizer": "tokenizer"}
NORM_EPS_KEY = "attention.layer_norm_epsilon"


@dataclass(frozen=True, eq=False)
class TlmFile:
    """A checked file. `vocabulary_sha256` is that of the bundle's, when it is shared."""

    gguf: GgufFile = field(repr=False)
    config: TlmConfig
    lowercase: bool
    vocabulary_sha256: str | None

    @staticmethod
    def open(path: str | Path) -> TlmFile:
        """Map and check a file.

        Raises BundleNotFoundError if it cannot be read, CorruptFileError if it is damaged or no
        tiny language model, UnsupportedModelError if a newer pliant wrote it.
        """
        gguf = GgufFile.open(path)
        keys = Keys(gguf)
        if keys.architecture != ARCHITECTURE:
            raise CorruptFileError(
                f"{gguf.path} is a {shorten(keys.architecture)}, not a tiny language model "
                f"({ARCHITECTURE}); `pliant tlm train` makes one"
            )
        version = keys.size(VERSION_KEY)
        if version > VERSION:
            raise UnsupportedModelError(
                f"{gguf.path}: format {version}; this pliant reads up to {VERSION}: update pliant"
            )
        config = _config(gguf, keys)
        lowercase, sha256 = _tokenizer(gguf, keys, config)
        _check_tensors(gguf, config)
        return TlmFile(gguf, config, lowercase, sha256)

    def vocabulary(self) -> list[str]:
        """The pieces of a WordPiece vocabulary, by token id."""
        tokens = self.gguf.metadata[TOKENS_KEY]
        assert isinstance(tokens, StringArray)
        return list(tokens)


def vocabulary_sha256(gguf: GgufFile) -> str:
    """Of a model file's tokens and merges: what makes two tokenizers the same."""
    digest = hashlib.sha256()
    for key in (TOKENS_KEY, "tokenizer.ggml.merges"):
        strings = gguf.metadata.get(key)
        for raw in strings.raw() if isinstance(strings, StringArray) else []:
            digest.update(len(raw).to_bytes(8, "little") + raw)
        digest.update(b"\xff")
    return digest.hexdigest()


def tensor_shapes(config: TlmConfig) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Name, shape (ne0 first) and whether it is a matrix in the file's weight type, of all."""
    d = config.hidden_size
    yield "token_embd.weight", (d, config.vocab_size), True
    yield "position_embd.weight", (d, config.window), False
    yield "slo_embd.weight", (d, NUM_SLO_TOKENS), False
    yield from _vectors("embd_norm", d)
    layers = (config.trunk_layers, config.score_layers, config.decision_layers)
    for branch, count in zip(BRANCHES, layers, strict=True):
        for index in range(count):
            yield from _layer(f"{branch}.{index}", d, config.ff)
    yield from _head("score_head", d, 1)
    yield from _head("pooler", d, d)
    yield from _head("prompt_ratio_head", d, len(config.prompt_ratios))
    yield from _head("level_head", d, len(config.levels))


def _layer(name: str, d: int, ff: int) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    for matrix, columns, rows in (
        ("attn_qkv", d, 3 * d),
        ("attn_output", d, d),
        ("ffn_up", d, ff),
        ("ffn_down", ff, d),
    ):
        yield f"{name}.{matrix}.weight", (columns, rows), True
        yield f"{name}.{matrix}.bias", (rows,), False
    yield from _vectors(f"{name}.attn_norm", d)
    yield from _vectors(f"{name}.ffn_norm", d)


def _vectors(name: str, d: int) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    yield f"{name}.weight", (d,), False
    yield f"{name}.bias", (d,), False


def _head(name: str, d: int, rows: int) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    yield f"{name}.weight", (d, rows), False
    yield f"{name}.bias", (rows,), False


def _config(gguf: GgufFile, keys: Keys) -> TlmConfig:
    fields: dict[str, object] = {name: keys.size(keys.name(key)) for name, key in SIZE_KEYS.items()}
    fields |= {name: keys.count(keys.name(key)) for name, key in TOKEN_KEYS.items()}
    fields |= {name: _ladder(gguf, keys, keys.name(key)) for name, key in LADDER_KEYS.items()}
    fields |= {name: keys.text(keys.name(key)) for name, key in TEXT_KEYS.items()}
    fields["norm_eps"] = keys.number(keys.name(NORM_EPS_KEY))
    try:
        return TlmConfig(**fields)  # type: ignore[arg-type]
    except BundleError as error:
        raise keys.fail(str(error)) from error


def _ladder(gguf: GgufFile, keys: Keys, key: str) -> tuple[float, ...]:
    value = gguf.metadata.get(key)
    if not isinstance(value, np.ndarray) or value.dtype != np.float64:
        raise keys.fail(f"{key} is missing or not an array of float64")
    return tuple(value.tolist())


def _tokenizer(gguf: GgufFile, keys: Keys, config: TlmConfig) -> tuple[bool, str | None]:
    if config.tokenizer == "bundle":
        return False, keys.text(VOCABULARY_KEY)
    lowercase = gguf.metadata.get(LOWERCASE_KEY)
    if not isinstance(lowercase, bool):
        raise keys.fail(f"{LOWERCASE_KEY} is missing or not a truth value")
    tokens = gguf.metadata.get(TOKENS_KEY)
    if not isinstance(tokens, StringArray) or len(tokens) != config.vocab_size:
        raise keys.fail(f"{TOKENS_KEY} is not an array of {config.vocab_size} strings")
    try:
        b"\n".join(tokens.raw()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise keys.fail(f"{TOKENS_KEY} holds text that is not UTF-8") from error
    return lowercase, None


def _check_tensors(gguf: GgufFile, config: TlmConfig) -> None:
    expected = {name: (shape, matrix) for name, shape, matrix in tensor_shapes(config)}
    odd = sorted(gguf.tensors.keys() ^ expected.keys())
    if odd:
        raise CorruptFileError(f"{gguf.path}: unknown or missing tensors: {shorten(odd)}")
    for name, (shape, is_matrix) in expected.items():
        found = gguf.tensors[name]
        types = MATRIX_TYPES if is_matrix else (GgmlType.F32,)
        if found.shape != shape or found.type not in types:
            raise CorruptFileError(
                f"{gguf.path}: tensor {name!r} is {found.type.name} of shape {found.shape}; "
                f"expected shape {shape} in {' or '.join(kind.name for kind in types)}"
            )
