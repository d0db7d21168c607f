"""Text to tokens and back, with the model's own vocabulary."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

from pliant.engine.chat import Piece
from pliant.ggml.llama import Vocab


class Tokenizer:
    """The vocabulary of one GGUF file; safe to share between threads until closed.

    `bos`, `eos` and `eot` are token ids or None; `eog` are all ids that end a generation;
    `special_texts` the names of control tokens; `adds_bos` says whether the model expects
    `bos` before every text.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises CorruptFileError if the file holds no vocabulary that llama.cpp can read."""
        self.vocab = Vocab(path)
        self.size = self.vocab.size
        self.bos = self.vocab.bos
        self.eos = self.vocab.eos
        self.eot = self.vocab.eot
        self.adds_bos = self.vocab.adds_bos and self.bos is not None
        self.eog = frozenset(self.vocab.eog_tokens())
        texts = (self.vocab.text(token) for token in self.vocab.special_tokens())
        self.special_texts = tuple(text for text in texts if text)
        self._pieces: dict[int, bytes] = {}

    def close(self) -> None:
        self.vocab.close()

    def __enter__(self) -> "Tokenizer":
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()

    def encode(self, text: str, *, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        """Tokens of `text`, after `bos` if `add_bos` and the model expects it.

        `parse_special` turns the names of control tokens into those tokens: never set it for
        text from outside. Raises RequestError if `text` is not valid Unicode or far too long.
        """
        tokens = self.vocab.tokenize(text, parse_special=parse_special)
        return self._with_bos(tokens) if add_bos else tokens

    def encode_pieces(self, pieces: Iterable[Piece]) -> list[int]:
        """Tokens of a rendered chat, after `bos` if the model expects it and it is not there."""
        tokens: list[int] = []
        for piece in pieces:
            tokens += self.vocab.tokenize(piece.text, parse_special=piece.parse_special)
        return tokens if tokens[:1] == [self.bos] else self._with_bos(tokens)

    def encode_continuation(self, text: str, continuation: str) -> list[int]:
        """Tokens of `continuation` as it stands after `text`.

        Where the tokens of `text` change when text follows, those of `continuation` alone.
        """
        before = self.encode(text, add_bos=False)
        whole = self.encode(text + continuation, add_bos=False)
        if len(whole) > len(before) and whole[: len(before)] == before:
            return whole[len(before) :]
        return self.encode(continuation, add_bos=False)

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Text of `tokens`; control tokens by name if `special`, else left out.

        Invalid UTF-8 becomes U+FFFD. Raises RequestError for a token not in the vocabulary.
        """
        return self.vocab.detokenize(tokens, special=special).decode("utf-8", "replace")

    def piece(self, token: int) -> bytes:
        """Bytes that `token` adds to a generated text; none for control tokens."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self.vocab.piece(token)
        return piece

    def text(self, token: int | None) -> str:
        """A control token's name, as chat templates want it; "" for None."""
        return "" if token is None else self.vocab.text(token)

    def _with_bos(self, tokens: list[int]) -> list[int]:
        return [self.bos, *tokens] if self.adds_bos and self.bos is not None else tokens
