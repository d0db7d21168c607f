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

    Tokens are those of the whole prompt as it is computed, chat markup included.
    """

    prompt: str | tuple[Message, ...]
    kept: tuple[CharRange, ...]
    ratio: float
    asked: float
    num_tokens: int
    num_original_tokens: int


class PreparedPrompt:
    """What compression does of a prompt before it knows the ratio; tokens are the LLM's."""

    def __init__(
        self,
        prompt: Prompt,
        tokenizer: Tokenizer,
        count: Callable[[Prompt], int],
        protect: Protect,
    ) -> None:
        """`count` tells how many tokens a prompt of this kind is computed as."""
        self._prompt = prompt
        self._tokenizer = tokenizer
        self._count = count
        self._original = prompt_text(prompt)
        self._text = readable(self._original)
        self._segments = segments_of(prompt)
        self._units = [
            segment_units(self._text, segment, protect, tokenizer.special_texts)
            for segment in self._segments
        ]
        self._flat_units = [unit for units in self._units for unit in units]
        self._length = cache(lambda text: len(tokenizer.encode(text, add_bos=False)))

    def floor(self) -> int:
        """Tokens that are left of it when all is dropped that may be."""
        return self._measure(self._kept(()))

    def at(self, ratio: float, scorer: Scorer | None, bundle: Bundle) -> CompressedPrompt:
        """What is left, or all of it where nothing may go or nothing would be won.

        Without `scorer` the TLM of `bundle` scores. Raises as `compress_prompt`.
        """
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 1:
            raise RequestError(f"a prompt ratio is above 0 and at most 1, not {ratio!r}")
        units = self._flat_units
        if ratio == 1 or all(unit.is_protected for unit in units):
            return self._result(self._whole, ratio, self._total)
        with _scoring(scorer, bundle) as scoring:
            [tokens] = scoring.scores([self._text])
        order = ranked(self._text, units, word_scores(units, tokens))
        kept, num_tokens = self._longest(order, math.floor(ratio * self._total + 1e-9))
        if num_tokens > self._total:
            return self._result(self._whole, ratio, self._total)
        return self._result(kept, ratio, num_tokens)

    def _longest(self, order: Sequence[int], budget: int) -> tuple[_Kept, int]:
        """With as many words of `order` as fit, or one where nothing is protected; its tokens."""
        costs = self._costs
        least = 0 if len(order) < len(self._flat_units) else 1
        kept = cache(lambda num_words: self._kept(order[:num_words]))

        def fitting(measure: Callable[[_Kept], int]) -> int:
            return longest_fitting(
                [costs[index] for index in order],
                least,
                budget,
                self._total,
                lambda num_words: measure(kept(num_words)),
            )

        found = kept(fitting(self._estimate))
        num_tokens = self._measure(found)
        if num_tokens > budget:
            found = kept(fitting(self._measure))
            num_tokens = self._measure(found)
        return found, num_tokens

    @cached_property
    def _whole(self) -> _Kept:
        return tuple(((s.start, s.end),) if s.start < s.end else () for s in self._segments)

    @cached_property
    def _total(self) -> int:
        return self._count(with_texts(self._prompt, self._texts(self._text, self._whole)))

    @cached_property
    def _overhead(self) -> int:
        """Tokens that are none of the texts': bos, and what the chat template adds."""
        return self._total - sum(map(self._length, self._texts(self._text, self._whole)))

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

    def _estimate(self, kept: _Kept) -> int:
        """Tokens as if the template's own never joined the texts': exact for a bare text."""
        return self._overhead + sum(map(self._length, self._texts(self._text, kept)))

    def _measure(self, kept: _Kept) -> int:
        if isinstance(self._prompt, str):
            return self._estimate(kept)
        return self._count(with_texts(self._prompt, self._texts(self._text, kept)))

    def _result(self, kept: _Kept, asked: float, num_tokens: int) -> CompressedPrompt:
        return CompressedPrompt(
            prompt=with_texts(self._prompt, self._texts(self._original, kept)),
            kept=tuple(each for ranges in kept for each in ranges),
            ratio=num_tokens / self._total if self._total else 1.0,
            asked=asked,
            num_tokens=num_tokens,
            num_original_tokens=self._total,
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
