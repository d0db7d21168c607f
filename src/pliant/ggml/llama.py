"""A model's vocabulary, read by llama.cpp: text to tokens and back, no weights loaded."""

import ctypes
import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from pliant.errors import CorruptFileError, GgmlError, RequestError
from pliant.ggml.interrupt import delayed_interrupt
from pliant.ggml.llama_declarations import LOAD_MODE_MMAP, NO_TOKEN, bind
from pliant.ggml.owner import Owner

# enum llama_token_attr
_ATTR_UNKNOWN = 1 << 0
_ATTR_CONTROL = 1 << 3

# enum llama_vocab_type
_VOCAB_NONE = 0
_VOCAB_BPE = 2

MAX_TEXT_BYTES = 16 * 1024 * 1024
# Some vocabularies split text with std::regex, which recurses once per character of a word and
# overflows the stack from some 20000 on. Longer words and gaps are cut before.
MAX_RUN = 8192
_RUN = re.compile(r"\s+|\S+")


class Vocab(Owner):
    """Owns a vocab-only llama_model; safe to share between threads until closed."""

    def __init__(self, path: str | Path) -> None:
        """Raises CorruptFileError if llama.cpp cannot read a vocabulary from the GGUF at `path`."""
        self._c = bind()
        params = self._c.model_default_params()
        params.vocab_only = 1
        params.load_mode = LOAD_MODE_MMAP
        params.n_gpu_layers = 0
        with delayed_interrupt():
            model = self._c.model_load_from_file(os.fsencode(path), params)
        if not model:
            raise CorruptFileError(f"llama.cpp cannot read a vocabulary from {path}")
        self._own(model, self._c.model_free, "llama.cpp could not load a vocabulary")
        self._vocab: int = self._c.model_get_vocab(model)
        self.size: int = self._c.vocab_n_tokens(self._vocab)
        kind = self._c.vocab_type(self._vocab)
        self._splits_words = kind == _VOCAB_BPE
        if kind == _VOCAB_NONE:
            self.close()
            raise CorruptFileError(f"{path} has no tokenizer")

    @property
    def address(self) -> int:
        """`llama_vocab *`, not the model; raises GgmlError after close()."""
        if not self._address:
            raise GgmlError("the vocabulary is closed")
        return self._vocab

    @property
    def bos(self) -> int | None:
        return _optional(self._c.vocab_bos(self.address))

    @property
    def eos(self) -> int | None:
        return _optional(self._c.vocab_eos(self.address))

    @property
    def eot(self) -> int | None:
        return _optional(self._c.vocab_eot(self.address))

    @property
    def adds_bos(self) -> bool:
        """Whether the model was trained with `bos` before every text."""
        return bool(self._c.vocab_get_add_bos(self.address))

    def eog_tokens(self) -> list[int]:
        """Tokens that end a generation."""
        is_eog, vocab = self._c.vocab_is_eog, self.address
        return [token for token in range(self.size) if is_eog(vocab, token)]

    def special_tokens(self) -> list[int]:
        """Tokens that are markup (control or unknown), never part of ordinary text."""
        attributes, vocab = self._c.vocab_get_attr, self.address
        markup = _ATTR_CONTROL | _ATTR_UNKNOWN
        return [token for token in range(self.size) if attributes(vocab, token) & markup]

    def text(self, token: int) -> str:
        """The entry as the file spells it (byte-level BPE in its own alphabet)."""
        text: bytes = self._c.vocab_get_text(self.address, self._checked(token))
        return text.decode("utf-8", "replace")

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Tokens of `text`, without bos or eos.

        With `parse_special`, names of control tokens in it become those tokens. Raises
        RequestError if it is not valid Unicode or longer than MAX_TEXT_BYTES.
        """
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise RequestError(f"the text is not valid Unicode: {error.reason}") from error
        if size > MAX_TEXT_BYTES:
            raise RequestError(f"the text has {size} bytes; at most {MAX_TEXT_BYTES} are taken")
        parts = [text]
        if self._splits_words and len(text) > MAX_RUN:
            parts = _cut_long_runs(text, self._markup if parse_special else None)
        tokens: list[int] = []
        for part in parts:
            tokens += self._tokenize(part.encode(), parse_special)
        return tokens

    @cached_property
    def _markup(self) -> re.Pattern[str]:
        names = sorted(map(self.text, self.special_tokens()), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, filter(None, names))) or r"(?!)")

    def _tokenize(self, text: bytes, parse_special: bool) -> list[int]:
        # A token is at least one byte, but for a space that some vocabularies put in front.
        room = len(text) + 8
        tokens = (ctypes.c_int32 * room)()
        count = self._c.tokenize(self.address, text, len(text), tokens, room, False, parse_special)
        if count < 0:
            raise GgmlError(f"llama.cpp could not tokenize a text of {len(text)} bytes ({count})")
        return tokens[:count]

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Bytes that `token` adds to a text; empty for markup unless `special`."""
        self._checked(token)
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._c.token_to_piece(self.address, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> bytes:
        """The text of `tokens` as a whole (without the space some vocabularies put in front)."""
        for token in tokens:
            self._checked(token)
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        size = 16 * len(tokens) + 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = self._c.detokenize(
                self.address, array, len(tokens), buffer, size, False, special
            )
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def _checked(self, token: int) -> int:
        if not 0 <= token < self.size:
            raise RequestError(f"token {token} is not in the vocabulary of {self.size}")
        return token


def _optional(token: int) -> int | None:
    return None if token == NO_TOKEN else token


def _cut_long_runs(text: str, uncut: re.Pattern[str] | None) -> list[str]:
    """`text` in parts whose words and gaps are short; what matches `uncut` stays whole."""
    edges: list[int] = []
    for run in _RUN.finditer(text):
        edges += range(run.start() + MAX_RUN, run.end(), MAX_RUN)
    if uncut and edges:
        inside = {i for m in uncut.finditer(text) for i in range(m.start() + 1, m.end())}
        edges = [edge for edge in edges if edge not in inside]
    return [text[a:b] for a, b in zip([0, *edges], [*edges, len(text)], strict=True)]
