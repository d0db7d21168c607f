"""Shorten prompts: drop the words worth least, keep what is protected, in order."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pliant.bundle import Bundle, open_bundle
from pliant.engine.chat import Message
from pliant.engine.model import DEFAULT_BUNDLE, ElasticModel
from pliant.engine.tokenizer import Tokenizer
from pliant.errors import BundleError, RequestError
from pliant.tlm.model import TinyModel
from pliant.tlm.offsets import readable, token_ranges
from pliant.tlm.protect import EVERYTHING, Protect
from pliant.tlm.scores import Scorer
from pliant.tlm.segments import prompt_text, segment_units, segments_of, with_texts
from pliant.tlm.selection import kept_ranges, longest_fitting, ranked, word_scores
from pliant.tlm.units import Unit

__all__ = [
    "Compressed",
    "CompressedPrompt",
    "PreparedPrompt",
    "compress",
    "compress_prompt",
    "prepare_prompt",
    "prompt_text",
]

CharRange = tuple[int, int]
_Prompt = str | Sequence[Message]
_Kept = tuple[tuple[CharRange, ...], ...]  # one for each segment


@dataclass(frozen=True)
class Compressed:
    """What is left of a text. Lengths are in tokens of the LLM.

    `kept` are the ranges of the original's characters that `text` is made of, in order; `ratio`
    is `num_tokens` / `num_original_tokens`, above `asked` only where protected parts or the one
    word that always stays did not allow less.
    """

    text: str
    kept: tuple[CharRange, ...]
    ratio: float
    asked: float
    num_tokens: int
    num_original_tokens: int


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


def compress(
    text: str,
    ratio: float,
    *,
    model: ElasticModel | str | Path = DEFAULT_BUNDLE,
    protect: Protect = EVERYTHING,
    scorer: Scorer | None = None,
) -> Compressed:
    """`text` in at most `ratio` of its tokens, as far as what is protected allows.

    Words are dropped whole, those of the lowest score first; the rest stays in order. The
    tokens are those of `model`, a loaded one or a bundle's name or path, which is opened for this
    call. Without a `scorer` the bundle's TLM scores, opened for this call too; for many texts pass
    a loaded model and a TinyModel. Raises RequestError for a ratio outside 0..1, BundleError if a
    scorer is needed, but none is given and the bundle has no TLM.
    """
    if not isinstance(text, str):
        raise RequestError("compress takes one text; compress_prompt takes messages")
    with _vocabulary(model) as (bundle, tokenizer):
        prepared = PreparedPrompt(
            text, tokenizer, lambda each: len(tokenizer.encode(str(each))), protect
        )
        done = prepared.at(ratio, scorer, bundle)
    assert isinstance(done.prompt, str)
    return Compressed(
        done.prompt, done.kept, done.ratio, ratio, done.num_tokens, done.num_original_tokens
    )


def compress_prompt(
    prompt: str | Sequence[Message],
    ratio: float,
    *,
    model: ElasticModel,
    protect: Protect = EVERYTHING,
    scorer: Scorer | None = None,
) -> CompressedPrompt:
    """As `compress`, for a text or messages; messages stay messages, roles and all.

    The ratio is that of the prompt's tokens in all, so that it is what prefill pays. The scorer
    gets `prompt_text(prompt)` as one text. Raises as `compress` and `ElasticModel.encode_prompt`.
    """
    return prepare_prompt(prompt, model=model, protect=protect).at(ratio, scorer, model.bundle)


def prepare_prompt(
    prompt: str | Sequence[Message], *, model: ElasticModel, protect: Protect = EVERYTHING
) -> "PreparedPrompt":
    """What `compress_prompt` does before it knows the ratio. Raises as it does."""

    def count(each: _Prompt) -> int:
        return len(
            model.tokenizer.encode(each) if isinstance(each, str) else model.encode_prompt(each)
        )

    return PreparedPrompt(prompt, model.tokenizer, count, protect)


class PreparedPrompt:
    """One prompt on its way: its words, what they cost, and how many of them fit."""

    def __init__(
        self,
        prompt: _Prompt,
        tokenizer: Tokenizer,
        count: Callable[[_Prompt], int],
        protect: Protect,
    ) -> None:
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

    def floor(self) -> int:
        """Tokens that are left of it when all is dropped that may be."""
        return self._measure(self._kept(()))

    def at(self, ratio: float, scorer: Scorer | None, bundle: Bundle) -> CompressedPrompt:
        """What is left, or all of it where nothing may go or nothing would be won."""
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 1:
            raise RequestError(f"a prompt ratio is above 0 and at most 1, not {ratio!r}")
        whole = tuple(((s.start, s.end),) if s.start < s.end else () for s in self._segments)
        total = self._measure(whole)
        flat = self._flat_units()
        if ratio == 1 or all(unit.is_protected for unit in flat):
            return self._result(whole, ratio, total, total)
        with _scoring(scorer, bundle) as scoring:
            [tokens] = scoring.scores([self._text])
        order = ranked(self._text, flat, word_scores(flat, tokens))
        costs = self._costs(flat)

        @cache
        def kept(num_words: int) -> _Kept:
            return self._kept(order[:num_words])

        @cache
        def measure(num_words: int) -> int:
            return self._measure(kept(num_words))

        num_words = longest_fitting(
            [costs[index] for index in order],
            least=0 if len(order) < len(flat) else 1,
            budget=math.floor(ratio * total + 1e-9),
            total=total,
            measure=measure,
        )
        if measure(num_words) > total:
            return self._result(whole, ratio, total, total)
        return self._result(kept(num_words), ratio, measure(num_words), total)

    def _flat_units(self) -> list[Unit]:
        return [unit for units in self._units for unit in units]

    def _costs(self, units: Sequence[Unit]) -> list[int]:
        """Tokens that begin in each unit or in the space before it."""
        starts = [start for start, _ in token_ranges(self._tokenizer, self._text)]
        edges = [0, *(bisect_left(starts, unit.end) for unit in units)]
        return [after - before for before, after in zip(edges, edges[1:], strict=False)]

    def _kept(self, words: Sequence[int]) -> _Kept:
        """The ranges with these of the words that may go, in each segment."""
        flat = self._flat_units()
        stays = [unit.is_protected for unit in flat]
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

    def _measure(self, kept: _Kept) -> int:
        return self._count(with_texts(self._prompt, self._texts(self._text, kept)))

    def _result(self, kept: _Kept, asked: float, num_tokens: int, total: int) -> CompressedPrompt:
        return CompressedPrompt(
            prompt=with_texts(self._prompt, self._texts(self._original, kept)),
            kept=tuple(each for ranges in kept for each in ranges),
            ratio=num_tokens / total if total else 1.0,
            asked=asked,
            num_tokens=num_tokens,
            num_original_tokens=total,
        )


@contextmanager
def _vocabulary(model: ElasticModel | str | Path) -> Iterator[tuple[Bundle, Tokenizer]]:
    """Of a loaded model, or of a bundle that is opened without its weights."""
    if isinstance(model, ElasticModel):
        yield model.bundle, model.tokenizer
        return
    bundle = open_bundle(model)
    with Tokenizer(bundle.gguf.path) as tokenizer:
        yield bundle, tokenizer


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
