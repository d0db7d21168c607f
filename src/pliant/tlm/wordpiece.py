"""WordPiece as BERT uses it (arXiv 1810.04805, section 4.1; google-research/bert), with offsets.

Text is cleaned, split into words and punctuation, lower-cased and stripped of accents if the
vocabulary is; each word becomes the longest pieces that the vocabulary has. Names of special
tokens in a text stay text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from pliant.errors import BundleError
from pliant.tlm.tokens import TextTokens

UNKNOWN = "[UNK]"
CLS = "[CLS]"
SEP = "[SEP]"
CONTINUES = "##"
# A longer word is unknown as a whole.
MAX_WORD = 100
_MAX_CACHED = 1 << 16

_PLAIN = re.compile(r"[\t\n\r -~]*", re.ASCII)
_PLAIN_WORD = re.compile(r"[0-9A-Za-z]+|[!-/:-@\[-`{-~]")
# Ideographs stand for words (google-research/bert, BasicTokenizer._is_chinese_char).
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)

# Normalized text of a word, and the character of the text that each of its characters is from.
_Word = tuple[str, Sequence[int]]


class WordPiece:
    """A `TextTokenizer` for `pieces`, by token id; `lowercase` also strips accents."""

    def __init__(self, pieces: Sequence[str], *, lowercase: bool) -> None:
        """Raises BundleError for a vocabulary without [UNK], [CLS] and [SEP]."""
        self._ids = {piece: token for token, piece in enumerate(pieces)}
        missing = [name for name in (UNKNOWN, CLS, SEP) if name not in self._ids]
        if missing:
            raise BundleError(f"a WordPiece vocabulary needs {', '.join(missing)}")
        self._lowercase = lowercase
        self._unknown = self._ids[UNKNOWN]
        self._longest = max(map(len, self._ids))
        self._cache: dict[str, tuple[tuple[int, int], ...]] = {}

    def __call__(self, text: str) -> TextTokens:
        tokens = TextTokens([], [], [])
        for word, origins in self._words(text):
            begin = 0
            for token, end in self._pieces(word):
                tokens.ids.append(token)
                tokens.starts.append(origins[begin])
                tokens.ends.append(origins[end - 1] + 1)
                begin = end
        return tokens

    def _words(self, text: str) -> Iterator[_Word]:
        if not _PLAIN.fullmatch(text):
            yield from _split(text, self._lowercase)
            return
        for match in _PLAIN_WORD.finditer(text):
            word = match[0].lower() if self._lowercase else match[0]
            yield word, range(match.start(), match.end())

    def _pieces(self, word: str) -> tuple[tuple[int, int], ...]:
        """Tokens of a word, each with where it ends in the word."""
        pieces = self._cache.get(word)
        if pieces is None:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            pieces = self._cache[word] = tuple(self._longest_pieces(word))
        return pieces

    def _longest_pieces(self, word: str) -> list[tuple[int, int]]:
        unknown = [(self._unknown, len(word))]
        if len(word) > MAX_WORD:
            return unknown
        pieces = []
        begin = 0
        while begin < len(word):
            prefix = CONTINUES if begin else ""
            for end in range(min(len(word), begin + self._longest), begin, -1):
                token = self._ids.get(prefix + word[begin:end])
                if token is not None:
                    break
            else:
                return unknown
            pieces.append((token, end))
            begin = end
        return pieces


def _split(text: str, lowercase: bool) -> Iterator[_Word]:
    """The words of any text."""
    word: list[str] = []
    origins: list[int] = []
    for index, char in enumerate(text):
        kind, shape = _character(char, lowercase)
        if kind != "letter" and kind != "nothing" and word:
            yield "".join(word), origins
            word, origins = [], []
        if kind == "alone":
            for part in shape:
                yield part, [index]
        elif kind == "letter":
            word += shape
            origins += [index] * len(shape)
    if word:
        yield "".join(word), origins


@lru_cache(maxsize=1 << 14)
def _character(char: str, lowercase: bool) -> tuple[str, str]:
    """Kind (letter, alone, space, nothing) and normalized characters."""
    category = unicodedata.category(char)
    if char in "\t\n\r" or category[0] == "Z":
        return "space", ""
    if char == "\ufffd" or category[0] == "C":
        return "nothing", ""
    if lowercase:
        parts = unicodedata.normalize("NFD", char)
        char = "".join(part for part in parts if unicodedata.category(part) != "Mn").lower()
        if not char:
            return "nothing", ""
    is_alone = _is_ideograph(char) or any(map(_is_punctuation, char))
    return ("alone" if is_alone else "letter"), char


def _is_ideograph(char: str) -> bool:
    return any(low <= ord(part) <= high for part in char for low, high in _IDEOGRAPHS)


def _is_punctuation(char: str) -> bool:
    """ASCII's symbols count as punctuation, those of other scripts do not."""
    is_plain = "!" <= char <= "~" and not char.isalnum()
    return is_plain or unicodedata.category(char)[0] == "P"
