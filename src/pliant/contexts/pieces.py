"""Pieces of a context's history, and how the journal writes them down.

A piece is what one party said in one call. Token ids are 4 bytes each; levels are kept as runs,
since a whole piece has one level as a rule.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, get_args

from pliant.errors import JournalError, RequestError

Role = Literal["system", "user", "assistant", "tool"]

MAX_TOKEN = (1 << 32) - 1
_RUN = struct.Struct("<Id")


@dataclass(frozen=True)
class Piece:
    """`tokens` as one party's part of a history; `levels[i]` is what token i was computed at.

    `messages` is what a chat template rendered as these tokens (JSON), "" where it was none. One
    number as `levels` is meant for all tokens. Raises RequestError without tokens, for ids
    that are no uint32, for levels outside 0 < level <= 1 or of another number, for an unknown role.
    """

    tokens: tuple[int, ...]
    levels: tuple[float, ...]
    role: Role = "user"
    messages: str = ""

    def __init__(
        self,
        tokens: Sequence[int],
        levels: float | Sequence[float],
        role: Role = "user",
        messages: str = "",
    ) -> None:
        if isinstance(levels, int | float):
            levels = (float(levels),) * len(tokens)
        object.__setattr__(self, "tokens", tuple(tokens))
        object.__setattr__(self, "levels", tuple(levels))
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "messages", messages)
        self._check()

    def _check(self) -> None:
        if not self.tokens:
            raise RequestError("a piece of a history has at least one token")
        if len(self.levels) != len(self.tokens):
            raise RequestError(f"{len(self.tokens)} tokens with {len(self.levels)} levels")
        if not all(0 <= token <= MAX_TOKEN for token in self.tokens):
            raise RequestError(f"token ids must be in 0..{MAX_TOKEN}")
        if not all(0 < level <= 1 for level in self.levels):
            raise RequestError("levels must be in 0 < level <= 1")
        if self.role not in get_args(Role):
            raise RequestError(f"role {self.role!r} is not one of {', '.join(get_args(Role))}")


@dataclass(frozen=True)
class History:
    """All tokens of a context, first one first, with the level each was computed at."""

    tokens: tuple[int, ...]
    levels: tuple[float, ...]

    @staticmethod
    def of(pieces: Sequence[Piece]) -> "History":
        return History(
            tuple(token for piece in pieces for token in piece.tokens),
            tuple(level for piece in pieces for level in piece.levels),
        )


@dataclass(frozen=True)
class Encoded:
    """A piece as a row of the journal; `checksum` covers the other fields."""

    role: str
    messages: str
    tokens: bytes
    levels: bytes
    checksum: int


def encode(piece: Piece) -> Encoded:
    tokens = struct.pack(f"<{len(piece.tokens)}I", *piece.tokens)
    runs = ((len(list(run)), level) for level, run in groupby(piece.levels))
    levels = b"".join(_RUN.pack(count, level) for count, level in runs)
    text = piece.role, piece.messages
    return Encoded(*text, tokens, levels, _checksum(*text, tokens, levels))


def decode(row: Encoded) -> Piece:
    """Inverse of `encode`; raises JournalError for anything that it did not write."""
    try:
        if _checksum(row.role, row.messages, row.tokens, row.levels) != row.checksum:
            raise JournalError("its checksum does not match")
        tokens = struct.unpack(f"<{len(row.tokens) // 4}I", row.tokens)
        runs = list(_RUN.iter_unpack(row.levels))
        if sum(count for count, _ in runs) != len(tokens):
            raise JournalError("it has levels for another number of tokens")
        levels = tuple(level for count, level in runs for _ in range(count))
        return Piece(tokens, levels, row.role, row.messages)  # type: ignore[arg-type]
    except (struct.error, TypeError, AttributeError, RequestError) as error:
        raise JournalError(f"it is malformed: {error}") from error


def _checksum(role: str, messages: str, tokens: bytes, levels: bytes) -> int:
    checksum = 0
    for part in (role.encode(), messages.encode(), tokens, levels):
        checksum = zlib.crc32(part, checksum)
    return checksum
