"""Check the tokenizer in a GGUF file before llama.cpp loads it.

llama.cpp checks little of this itself: a short array is read past its end and a failed assertion
or an uncaught exception ends the process.
"""

from __future__ import annotations

import re
from reprlib import repr as shorten
from typing import Any

import numpy as np
import numpy.typing as npt

from pliant.bundle.cursor import StringArray
from pliant.bundle.gguf import GgufFile
from pliant.errors import CorruptFileError, UnsupportedModelError

SENTENCEPIECE = "llama"
BYTE_LEVEL = "gpt2"
CHAT_TEMPLATE = "tokenizer.chat_template"
NO_VOCABULARY = ("no_vocab", "none")

# Ids that llama.cpp takes when the file names none.
_DEFAULT_IDS = {
    SENTENCEPIECE: {"unknown": 0, "bos": 1, "eos": 2},
    BYTE_LEVEL: {"bos": 11, "eos": 11},
}
_BYTE_TYPE = 6
_BYTE_TOKEN = re.compile(rb"<0x[0-9A-F]{2}>")
_PREFIX = "tokenizer.ggml."


def check_vocabulary(gguf: GgufFile, vocab_size: int) -> None:
    """Check that llama.cpp can load and use the vocabulary.

    A model without one (`tokenizer.ggml.model` is 'no_vocab') passes. Raises CorruptFileError
    for inconsistent data, UnsupportedModelError for another kind of tokenizer.
    """
    model = _text(gguf, "model")
    if not isinstance(gguf.metadata.get(CHAT_TEMPLATE, ""), str):
        raise _fail(gguf, f"{CHAT_TEMPLATE} is not text")
    if _PREFIX + "pre" in gguf.metadata:
        _text(gguf, "pre")
    if model in NO_VOCABULARY:
        return
    if model not in _DEFAULT_IDS:
        raise UnsupportedModelError(
            f"{gguf.path}: tokenizer {shorten(model)} is not supported; pliant reads "
            f"{SENTENCEPIECE!r} (SentencePiece) and {BYTE_LEVEL!r} (byte-level BPE)"
        )
    tokens = _check_tokens(gguf, vocab_size)
    types = _array(gguf, "token_type", np.int32, vocab_size)
    _check_byte_tokens(gguf, model, tokens, types)
    if _array(gguf, "scores", np.float32, vocab_size) is None and model == SENTENCEPIECE:
        raise _fail(gguf, "the tokens have no scores")
    if model == BYTE_LEVEL:
        _check_merges(gguf)
    _check_special_ids(gguf, model, vocab_size)


def _fail(gguf: GgufFile, what: str) -> CorruptFileError:
    return CorruptFileError(f"{gguf.path}: tokenizer: {what}")


def _text(gguf: GgufFile, key: str) -> str:
    value = gguf.metadata.get(_PREFIX + key)
    if not isinstance(value, str):
        raise _fail(gguf, f"{_PREFIX}{key} is missing or not text")
    return value


def _strings(gguf: GgufFile, key: str) -> list[bytes]:
    value = gguf.metadata.get(_PREFIX + key)
    if not isinstance(value, StringArray):
        raise _fail(gguf, f"{_PREFIX}{key} is missing or not an array of strings")
    strings = value.raw()
    try:
        # A separator that is no part of a longer character: valid exactly if each string is.
        b"\n".join(strings).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _fail(gguf, f"{_PREFIX}{key} holds text that is not UTF-8") from error
    return strings


def _check_tokens(gguf: GgufFile, vocab_size: int) -> list[bytes]:
    tokens = _strings(gguf, "tokens")
    if len(tokens) != vocab_size:
        raise _fail(gguf, f"{len(tokens)} tokens, but the embedding has {vocab_size} rows")
    if any(b"\0" in token for token in tokens):
        raise _fail(gguf, "a token holds a NUL character")
    # llama.cpp renames empty tokens like this, then asserts that all differ.
    names = {token or b"[EMPTY_%d]" % index for index, token in enumerate(tokens)}
    if len(names) != len(tokens):
        raise _fail(gguf, "two tokens have the same text")
    return tokens


def _array(
    gguf: GgufFile, key: str, dtype: type[np.generic], length: int
) -> npt.NDArray[Any] | None:
    value = gguf.metadata.get(_PREFIX + key)
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or value.dtype != dtype or len(value) != length:
        raise _fail(gguf, f"{_PREFIX}{key} is not an array of {length} {dtype.__name__}")
    return value


def _check_byte_tokens(
    gguf: GgufFile, model: str, tokens: list[bytes], types: npt.NDArray[Any] | None
) -> None:
    if model != SENTENCEPIECE:
        return
    if types is None:
        raise _fail(gguf, "the tokens have no types")
    for index in np.flatnonzero(types == _BYTE_TYPE):
        if not _BYTE_TOKEN.fullmatch(tokens[index]):
            raise _fail(gguf, f"token {index} is a byte, but its text is {shorten(tokens[index])}")
    # llama.cpp falls back to these for any text; a missing one is an uncaught C++ exception.
    missing = {b"<0x%02X>" % byte for byte in range(256)}.difference(tokens)
    if missing:
        raise _fail(gguf, f"{len(missing)} byte tokens are missing")


def _check_merges(gguf: GgufFile) -> None:
    for merge in _strings(gguf, "merges"):
        if not 0 < merge.find(b" ", 1) < len(merge) - 1:
            raise _fail(gguf, f"the merge {shorten(merge)} is not two pieces")


def _check_special_ids(gguf: GgufFile, model: str, vocab_size: int) -> None:
    ids: dict[str, Any] = {f"{_PREFIX}{key}_token_id": i for key, i in _DEFAULT_IDS[model].items()}
    for key, value in gguf.metadata.items():
        if key.startswith(_PREFIX) and key.endswith("_token_id"):
            ids[key] = value
    # Some pre-tokenizers unset llama.cpp's defaults, and it asserts that there is an id to add.
    known = gguf.metadata.keys() if model == BYTE_LEVEL else ids.keys()
    for kind in ("bos", "eos"):
        if (
            gguf.metadata.get(f"{_PREFIX}add_{kind}_token") is True
            and f"{_PREFIX}{kind}_token_id" not in known
        ):
            raise _fail(gguf, f"add_{kind}_token is set, but {kind}_token_id is not")
    for key, value in ids.items():
        if type(value) is not int or not 0 <= value < vocab_size:
            raise _fail(gguf, f"{key} is {value!r}, not one of the {vocab_size} tokens")


def describe_tokenizer(gguf: GgufFile) -> dict[str, Any]:
    """Kind and size of a checked vocabulary, ready for JSON."""
    tokens = gguf.metadata.get(_PREFIX + "tokens")
    return {
        "model": gguf.metadata[_PREFIX + "model"],
        "pre": gguf.metadata.get(_PREFIX + "pre"),
        "tokens": len(tokens) if isinstance(tokens, StringArray) else 0,
        "has_chat_template": CHAT_TEMPLATE in gguf.metadata,
    }
