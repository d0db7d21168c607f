"""What the score head learns from: windows of tokens, each token with its word's keep value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pliant.tlm.labels.rows import ScoreRow
from pliant.tlm.tokens import TextTokens
from pliant.tlm.training.network import TinyNetwork
from pliant.tlm.windows import cut

# A token that belongs to no word teaches nothing.
NO_TARGET = -1.0


@dataclass(frozen=True)
class ScoreExample:
    """One window: token ids of the text, and for each its target from 0 to 1, or NO_TARGET."""

    ids: tuple[int, ...]
    targets: tuple[float, ...]


def score_examples(network: TinyNetwork, rows: Iterable[ScoreRow]) -> list[ScoreExample]:
    """Windows with at least one labelled token."""
    examples = []
    for row in rows:
        tokens = network.vocabulary.tokenizer(row.text)
        targets = token_targets(tokens, row)
        for window in cut(len(tokens), network.config.room):
            part = slice(window.start, window.stop)
            example = ScoreExample(tuple(tokens.ids[part]), tuple(targets[part]))
            if any(target != NO_TARGET for target in example.targets):
                examples.append(example)
    return examples


def token_targets(tokens: TextTokens, row: ScoreRow) -> list[float]:
    """Per token the keep value of the first word that it shares a character with."""
    targets = []
    spans = iter(row.spans)
    span = next(spans, None)
    for start, end in zip(tokens.starts, tokens.ends, strict=True):
        while span is not None and span[1] <= start:
            span = next(spans, None)
        overlaps = span is not None and span[0] < end
        targets.append(float(span[2]) if span is not None and overlaps else NO_TARGET)
    return targets
