"""Texts as the tokens that the tiny language model reads, with where each lies in the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class TextTokens:
    """Token i is the characters `starts[i]` up to `ends[i]`; no [CLS] or [SEP] among them."""

    ids: list[int]
    starts: list[int]
    ends: list[int]

    def __len__(self) -> int:
        return len(self.ids)


class TextTokenizer(Protocol):
    """Any text has tokens, broken UTF-8 (lone surrogates) too; safe to share between threads."""

    def __call__(self, text: str) -> TextTokens: ...
