"""Typed access to a GGUF file's metadata, within bounds."""

from __future__ import annotations

import math

from pliant.bundle.gguf import GgufFile
from pliant.errors import CorruptFileError

MAX_SIZE = 1 << 31


class Keys:
    """`name("block_count")` is the architecture's own key, e.g. `llama.block_count`.

    Everything that reads raises CorruptFileError for a missing key without a default, and for a
    value of another type or out of bounds.
    """

    def __init__(self, gguf: GgufFile) -> None:
        self._gguf = gguf
        self.architecture = self.text("general.architecture")

    def name(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def __contains__(self, key: str) -> bool:
        return key in self._gguf.metadata

    def fail(self, what: str) -> CorruptFileError:
        return CorruptFileError(f"{self._gguf.path}: {what}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._gguf.metadata.get(key, default)
        if not isinstance(value, str):
            raise self.fail(f"{key} is missing or not text")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        value = self._gguf.metadata.get(key, default)
        if type(value) is not int:
            raise self.fail(f"{key} is missing or not an integer")
        if not 1 <= value < MAX_SIZE:
            raise self.fail(f"{key} is {value}; it must be at least 1 and below 2^31")
        return value

    def count(self, key: str) -> int:
        """A number that is 0 when absent."""
        value = self._gguf.metadata.get(key, 0)
        if type(value) is not int:
            raise self.fail(f"{key} is not an integer")
        return value

    def number(self, key: str, default: float | None = None, *, zero: bool = False) -> float:
        value = self._gguf.metadata.get(key, default)
        if not isinstance(value, float):
            raise self.fail(f"{key} is missing or not a floating-point number")
        if not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
            raise self.fail(f"{key} is {value}; it must be positive")
        return value
