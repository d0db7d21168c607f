"""Score labels from texts and their compressed forms, in the layout of MeetingBank-LLMCompressed.

A line holds `prompt_list` and `compressed_prompt_list`, as many pieces each, or one `prompt` with
its `compressed_prompt` (microsoft/MeetingBank-LLMCompressed, dataset card).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pliant.errors import LabelError
from pliant.progress import Track, untracked
from pliant.tlm.labels.alignment import Alignment, align
from pliant.tlm.labels.rows import ScoreRow, read_lines

VARIATION_PERCENTILE = 95
GAP_PERCENTILE = 90

Pair = tuple[str, str]


@dataclass(frozen=True)
class PairLabels:
    """`unusable` lines had two lists of different lengths; `varied` texts have words of their own,
    `unaligned` ones could not be followed: both are left out, see `label_pairs`."""

    rows: tuple[ScoreRow, ...]
    unusable: int
    varied: int
    unaligned: int


def label_pairs(path: Path, track: Track = untracked) -> PairLabels:
    """One row for each pair that is good enough (LLMLingua-2, arXiv 2403.12968, section 3.3).

    Left out are the pairs with a variation rate above the 95th percentile and, of the others,
    those with an alignment gap above the 90th. Raises LabelError, naming file and line.
    """
    lines = list(read_lines(path, _pairs))
    pairs = [pair for found in lines for pair in found or ()]
    if not pairs:
        raise LabelError(f"{path} has no pairs of texts")
    aligned = [(text, align(text, short)) for text, short in track(pairs, "alignment", len(pairs))]
    steady = _within(aligned, VARIATION_PERCENTILE, lambda found: found.variation_rate)
    followed = _within(steady, GAP_PERCENTILE, lambda found: found.alignment_gap)
    return PairLabels(
        rows=tuple(_row(text, found) for text, found in followed),
        unusable=sum(found is None for found in lines),
        varied=len(aligned) - len(steady),
        unaligned=len(steady) - len(followed),
    )


_Aligned = tuple[str, Alignment]


def _within(
    aligned: Sequence[_Aligned], percentile: int, measure: Callable[[Alignment], float]
) -> list[_Aligned]:
    """Those that measure no more than the percentile: with many equal ones, all of these stay."""
    limit = np.percentile([measure(found) for _, found in aligned], percentile)
    return [(text, found) for text, found in aligned if measure(found) <= limit]


def _row(text: str, found: Alignment) -> ScoreRow:
    spans = zip(found.spans, found.kept, strict=True)
    return ScoreRow(text, tuple((start, end, float(kept)) for (start, end), kept in spans))


def _pairs(line: Mapping[str, Any]) -> list[Pair] | None:
    """The pairs of a line; None if its lists do not belong together."""
    if "prompt_list" not in line:
        return [(_text_of(line, "prompt"), _text_of(line, "compressed_prompt"))]
    texts, shorts = line["prompt_list"], line["compressed_prompt_list"]
    if not all(_are_texts(found) for found in (texts, shorts)):
        raise LabelError("prompt_list and compressed_prompt_list must be lists of texts")
    if len(texts) != len(shorts):
        return None
    pairs = zip(texts, shorts, strict=True)
    return [(text, short) for text, short in pairs if text.strip()]


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _text_of(line: Mapping[str, Any], name: str) -> str:
    value = line[name]
    if not isinstance(value, str):
        raise LabelError(f"{name} is {value!r}, not a text")
    return value
