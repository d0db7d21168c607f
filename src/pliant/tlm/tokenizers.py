"""The tokenizers of tiny language models: WordPiece, or the one of the model it lies beside."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pliant.bundle.gguf import GgufFile
from pliant.bundle.manifest import MODEL_FILE
from pliant.engine.tokenizer import Tokenizer
from pliant.errors import BundleError, BundleNotFoundError
from pliant.tlm.format import TlmFile, vocabulary_sha256
from pliant.tlm.tokens import TextTokenizer, TextTokens
from pliant.tlm.wordpiece import WordPiece

_SURROGATE = re.compile("[\ud800-\udfff]")


def tokenizer_of(file: TlmFile, model: str | Path | None = None) -> TextTokenizer:
    """`model` is the GGUF whose tokenizer is shared; by default the one in the same folder.

    Raises BundleError if it is missing or another one than the file was made for.
    """
    if file.config.tokenizer == "wordpiece":
        return WordPiece(file.vocabulary(), lowercase=file.lowercase)
    path = Path(model) if model is not None else file.gguf.path.parent / MODEL_FILE
    if not path.exists():
        raise BundleNotFoundError(
            f"{file.gguf.path} shares the tokenizer of {path}, which is missing; "
            "give the model it was made for"
        )
    if vocabulary_sha256(GgufFile.open(path)) != file.vocabulary_sha256:
        raise BundleError(f"{file.gguf.path} was made for another tokenizer than {path}'s")
    return SharedTokenizer(Tokenizer(path))


class SharedTokenizer:
    """A `TextTokenizer` that reads as the LLM does."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> TextTokens:
        # One character for another, so that places in the text stay the same.
        text = _SURROGATE.sub("\ufffd", text)
        ids = self._tokenizer.encode(text, add_bos=False)
        piece = self._tokenizer.piece
        lengths = np.fromiter((len(piece(token)) for token in ids), dtype=np.int64, count=len(ids))
        data = np.frombuffer(text.encode(), dtype=np.uint8)
        # Some vocabularies put a space in front, which no character of the text is.
        edges = np.concatenate([[0], np.cumsum(lengths)]) - max(0, lengths.sum() - len(data))
        # How many characters begin before a byte: those that begin in a token are the token's.
        begun = np.concatenate([[0], np.cumsum((data & 0xC0) != 0x80)])
        places = begun[np.clip(edges, 0, len(data))].tolist()
        return TextTokens(ids, places[:-1], places[1:])
