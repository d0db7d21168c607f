"""A prompt on its way to fewer tokens: its words, what they cost, and how many of them fit."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from pliant.bundle import Bundle
from pliant.engine.chat import Message
from pliant.engine.tokenizer import Tokenizer
from pliant.errors import BundleError, RequestError
from pliant.tlm.model import TinyModel
from pliant.tlm.offsets import readable, token_starts
from pliant.tlm.protect import Protect
from pliant.tlm.scores import Scorer
from pliant.tlm.segments import prompt_text, segment_units, segments_of, with_texts
from pliant.tlm.selection import kept_ranges, longest_fitting, ranked, word_scores

CharRange = tuple[int, int]
Prompt = str | Sequence[Message]
_Kept = tuple[tuple[CharRange, ...], ...]  # one for each segment


@dataclass(frozen=True)
class CompressedPrompt:
    """As `Compressed`: `prompt` is of the kind given, `kept` ranges of its `prompt_text`.

    `tokens` are those of the whole prompt as it is computed, chat markup included.
    """

    prompt: str | tuple[Message, ...]
    kept: tuple[CharRange, ...]
    ratio: float
    asked: float
    tokens: Sequence[int]
    num_original_tokens: int

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)


class PreparedPrompt:
    """What compression does of a prompt before it knows the ratio; tokens are the LLM's."""

    def __init__(
        self,
        prompt: Prompt,
        tokenizer: Tokenizer,
        encode: Callable[[Prompt], Sequence[int]],
        protect: Protect,
        tokens: Sequence[int] | None = None,
    ) -> None:
        """`encode` tells what a prompt of this kind is computed as; `tokens` of `prompt` itself,
        where they are known."""
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._encode = encode
        self._original = prompt_text(prompt)
        self._text = readable(self._original)
        self._segments = segments_of(prompt)
        self._units = [
            segment_units(self._text, segment, protect, tokenizer.special_texts)
            for segment in self._segments
        ]
        self._flat_units = [unit for units in self._units for unit in units]
        self._tokens = self._measure(self._whole) if tokens is None else tokens

    def floor(self) -> int:
        """About how many tokens are left of it when all is dropped that may be: where words meet
        that were apart, tokens can join."""
        pairs = zip(self._flat_units, self._costs, strict=True)
        return len(self._tokens) - sum(cost for unit, cost in pairs if not unit.is_protected)

    def at(self, ratio: float, scorer: Scorer | None, bundle: Bundle) -> CompressedPrompt:
        """What is left, or all of it where nothing may go or nothing would be won.

        Without `scorer` the TLM of `bundle` scores. Raises as `compress_prompt`.
        """
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 1:
            raise RequestError(f"a prompt ratio is above 0 and at most 1, not {ratio!r}")
        units = self._flat_units
        if ratio == 1 or all(unit.is_protected for unit in units):
            return self._result(self._whole, ratio, self._tokens)
        with _scoring(scorer, bundle) as scoring:
            [tokens] = scoring.scores([self._text])
        order = ranked(self._text, units, word_scores(units, tokens))
        kept, left = self._longest(order, math.floor(ratio * len(self._tokens) + 1e-9))
        if len(left) > len(self._tokens):
            return self._result(self._whole, ratio, self._tokens)
        return self._result(kept, ratio, left)

    def _longest(self, order: Sequence[int], budget: int) -> tuple[_Kept, Sequence[int]]:
        """With as many words of `order` as fit, or one where nothing is protected; its tokens."""
        least = 0 if len(order) < len(self._flat_units) else 1

        @cache
        def tried(num_words: int) -> tuple[_Kept, Sequence[int]]:
            kept = self._kept(order[:num_words])
            return kept, self._measure(kept)

        costs = [self._costs[index] for index in order]
        total = len(self._tokens)
        return tried(longest_fitting(costs, least, budget, total, lambda n: len(tried(n)[1])))

    @cached_property
    def _whole(self) -> _Kept:
        return tuple(((s.start, s.end),) if s.start < s.end else () for s in self._segments)

    @cached_property
    def _costs(self) -> list[int]:
        """For each unit the tokens that begin in it or in the space before it."""
        ends = [unit.end for unit in self._flat_units]
        edges = np.searchsorted(token_starts(self._tokenizer, self._text), ends)
        return np.diff(edges, prepend=0).tolist()  # type: ignore[no-any-return]

    def _kept(self, words: Sequence[int]) -> _Kept:
        """The ranges with these of the words that may go, in each segment."""
        stays = [unit.is_protected for unit in self._flat_units]
        for index in words:
            stays[index] = True
        kept = []
        position = 0
        for segment, units in zip(self._segments, self._units, strict=True):
            flags = stays[position : position + len(units)]
            position += len(units)
            kept.append(tuple(kept_ranges(self._text, units, flags, segment.start, segment.end)))
        return tuple(kept)

    def _texts(self, source: str, kept: _Kept) -> list[str]:
        return ["".join(source[start:end] for start, end in ranges) for ranges in kept]

    def _measure(self, kept: _Kept) -> Sequence[int]:
        return self._encode(with_texts(self._prompt, self._texts(self._text, kept)))

    def _result(self, kept: _Kept, asked: float, tokens: Sequence[int]) -> CompressedPrompt:
        return CompressedPrompt(
            prompt=with_texts(self._prompt, self._texts(self._original, kept)),
            kept=tuple(each for ranges in kept for each in ranges),
            ratio=len(tokens) / len(self._tokens) if self._tokens else 1.0,
            asked=asked,
            tokens=tokens,
            num_original_tokens=len(self._tokens),
        )


@contextmanager
def _scoring(scorer: Scorer | None, bundle: Bundle) -> Iterator[Scorer]:
    """`scorer`, or the bundle's TLM, opened for this prompt."""
    if scorer is not None:
        yield scorer
        return
    if bundle.tlm_path is None:
        raise BundleError(
            f"{bundle.name} has no tiny language model (tlm.gguf) to score the words with: "
            "make one with `pliant tlm train`, or pass a scorer"
        )
    with TinyModel(bundle.tlm_path, model=bundle.gguf.path) as tlm:
        yield tlm
