"""The tiny language model at run time: texts in, keep probabilities and a decision out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from pliant.tlm.format import TlmFile
from pliant.tlm.inputs import PassShape
from pliant.tlm.passes import PassResult, PassRunner
from pliant.tlm.scores import TokenScore
from pliant.tlm.slo_tokens import slo_tokens
from pliant.tlm.tokenizers import tokenizer_of
from pliant.tlm.tokens import TextTokens
from pliant.tlm.windows import cut, deciding

_NO_SLO = slo_tokens(None, None)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Reading:
    """What both heads say of a text under an SLO.

    `tokens` in the order of the text, empty where scores were not asked for; `prompt_ratios` and
    `levels` are probabilities, in the order of the model's.
    """

    tokens: tuple[TokenScore, ...]
    prompt_ratios: tuple[float, ...]
    levels: tuple[float, ...]


@dataclass(frozen=True)
class _Window:
    """Where the scores of some tokens belong: `tokens` of text `text`."""

    text: int
    tokens: range
    ids: list[int]


class TinyModel:
    """Reads texts with both heads; methods may be called from several threads.

    `prompt_ratios` and `levels`, ascending, are what the decision head chooses from.
    """

    def __init__(
        self, path: str | Path, *, threads: int | None = None, model: str | Path | None = None
    ) -> None:
        """`model` is the GGUF whose tokenizer is shared; by default the one beside `path`.

        At most `threads` are used, fewer while other programs run. Raises BundleError for a file
        that is missing, damaged or made for another model.
        """
        file = TlmFile.open(path)
        self._config = file.config
        self.prompt_ratios = file.config.prompt_ratios
        self.levels = file.config.levels
        self._tokenize = tokenizer_of(file, model)
        self._passes = PassRunner(file, threads)

    def read(
        self,
        text: str,
        ttft: float | None = None,
        tpot: float | None = None,
        *,
        scored: bool = True,
    ) -> Reading:
        """Both heads in one pass; unless `scored` the decision alone, which costs less.

        `ttft` and `tpot` are shares (0..1] of the full model's latency, None for no limit.
        Raises SloError for others.
        """
        slo = slo_tokens(ttft, tpot)
        tokens = self._tokenize(text)
        windows = self._windows(0, tokens)
        first = deciding(len(windows))
        order = [windows[index] for index in first]
        if scored:
            order += [window for index, window in enumerate(windows) if index not in first]
        keep = np.zeros(len(tokens), dtype=np.float32)
        decision = self._compute(order, [keep], slo, scored=scored, deciding=len(first))
        assert decision.prompt_ratios is not None
        assert decision.levels is not None
        return Reading(
            tuple(_token_scores(tokens, keep)) if scored else (),
            _softmax(decision.prompt_ratios),
            _softmax(decision.levels),
        )

    def scores(self, texts: Sequence[str]) -> list[list[TokenScore]]:
        """The score head alone, several texts' windows together."""
        tokens = [self._tokenize(text) for text in texts]
        keep = [np.zeros(len(text), dtype=np.float32) for text in tokens]
        by_length: defaultdict[int, list[_Window]] = defaultdict(list)
        for number, text in enumerate(tokens):
            for window in self._windows(number, text) if len(text) else []:
                by_length[self._passes.length(len(window.ids))].append(window)
        for windows in by_length.values():
            self._compute(windows, keep, _NO_SLO, scored=True, deciding=0)
        return [_token_scores(text, kept) for text, kept in zip(tokens, keep, strict=True)]

    def close(self) -> None:
        """Free everything. Idempotent."""
        self._passes.close()

    def __enter__(self) -> TinyModel:
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()

    def _windows(self, number: int, tokens: TextTokens) -> list[_Window]:
        spans = cut(len(tokens), self._config.room)
        return [_Window(number, span, tokens.ids[span.start : span.stop]) for span in spans]

    def _compute(
        self,
        windows: Sequence[_Window],
        keep: Sequence[Floats],
        slo: tuple[int, int],
        *,
        scored: bool,
        deciding: int,
    ) -> PassResult:
        """Fill in `keep`, by text and token; returns the first pass's result.

        The first `deciding` windows decide, so they come first and are in the first pass.
        """
        length = self._passes.length(max(len(window.ids) for window in windows))
        step = self._passes.windows_per_pass(length)
        results = []
        for start in range(0, len(windows), step):
            part = windows[start : start + step]
            shape = PassShape(len(part), length, scored, 0 if start else deciding)
            result = self._passes.run(shape, [window.ids for window in part], slo)
            results.append(result)
            for row, window in enumerate(part if result.scores is not None else []):
                assert result.scores is not None
                logits = result.scores[row, 1 : len(window.ids) + 1]
                keep[window.text][window.tokens.start : window.tokens.stop] = logits
        return results[0]


def _token_scores(tokens: TextTokens, logits: Floats) -> list[TokenScore]:
    """Tokens that begin inside a character have no characters of their own and are left out."""
    keep = (0.5 + 0.5 * np.tanh(0.5 * logits)).tolist()
    spans = zip(tokens.starts, tokens.ends, keep, strict=True)
    return [TokenScore._make(span) for span in spans if span[1] > span[0]]


def _softmax(logits: Floats) -> tuple[float, ...]:
    shares = np.exp(logits - logits.max())
    return tuple((shares / shares.sum()).tolist())
