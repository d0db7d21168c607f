"""Log-probabilities of given continuations of one prompt, which is computed once."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import Level
from pliant.engine.engine import MAX_BATCH, Engine
from pliant.engine.generate import prompt_spans
from pliant.engine.sampling import Logits, log_softmax
from pliant.engine.slots import SlotPool
from pliant.engine.span import Span

# Of a vocabulary each, whose probabilities are computed at a time.
_ROWS = 16


def score_continuations(
    engine: Engine,
    slots: SlotPool,
    level: Level,
    prompt: Sequence[int],
    continuations: Sequence[Sequence[int]],
) -> list[float]:
    """Mean natural log-probability of the tokens of each continuation after `prompt`.

    All must fit the context; none may be empty. Uses the slots that are free, but for one,
    to compute several continuations together; raises BusyError if none is.
    """
    longest = max(len(tokens) for tokens in continuations)
    at_once = max(1, min(len(continuations), MAX_BATCH // longest))
    if longest == 1:
        at_once = 1
    with slots.lease(at_once) as leased:
        for span in prompt_spans(leased[0], prompt):
            rows = engine.forward(level, [span])
        first = log_softmax(rows[-1])
        for slot in leased[1:]:
            engine.copy_slot(leased[0], slot, len(prompt))
        scores: list[float] = []
        for start in range(0, len(continuations), len(leased)):
            group = continuations[start : start + len(leased)]
            scores += _score_group(engine, level, leased, len(prompt), group, first)
    return scores


def _score_group(
    engine: Engine,
    level: Level,
    slots: Sequence[int],
    start: int,
    group: Sequence[Sequence[int]],
    first: Logits,
) -> list[float]:
    """Each continuation in its own slot, overwriting what was there after the prompt."""
    spans = [
        Span(slot, tokens[:-1], start, "all")
        for slot, tokens in zip(slots, group, strict=False)
        if len(tokens) > 1
    ]
    targets = [token for tokens in group for token in tokens[1:]]
    later = log_probabilities(engine, level, spans, targets)
    scores = []
    used = 0
    for tokens in group:
        count = len(tokens) - 1
        total = float(first[tokens[0]]) + float(later[used : used + count].sum())
        used += count
        scores.append(total / len(tokens))
    return scores


def log_probabilities(
    engine: Engine, level: Level, spans: Sequence[Span], targets: Sequence[int]
) -> NDArray[np.float64]:
    """Natural log-probability of each of `targets` right after the token of `spans` (which want
    all logits) in its place. Only a single span may be longer than MAX_BATCH."""
    found = np.empty(len(targets))
    done = 0
    for batch in _batches(spans):
        rows = engine.forward(level, batch)
        for start in range(0, len(rows), _ROWS):
            piece = log_softmax(rows[start : start + _ROWS])
            chosen = targets[done : done + len(piece)]
            found[done : done + len(piece)] = piece[np.arange(len(piece)), chosen]
            done += len(piece)
    return found


def _batches(spans: Sequence[Span]) -> Iterator[Sequence[Span]]:
    """One batch, or one after another for a single span longer than that."""
    if sum(len(span.tokens) for span in spans) <= MAX_BATCH:
        if spans:
            yield spans
        return
    [span] = spans
    for at in range(0, len(span.tokens), MAX_BATCH):
        yield [Span(span.slot, span.tokens[at : at + MAX_BATCH], span.start + at, "all")]


def all_logits(
    engine: Engine, level: Level, slot: int, tokens: Sequence[int], start: int = 0
) -> Logits:
    """Logits [len(tokens), vocab] after each of `tokens`, which begin at position `start`."""
    batches = [
        engine.forward(level, [Span(slot, tokens[i : i + MAX_BATCH], start + i, "all")])
        for i in range(0, len(tokens), MAX_BATCH)
    ]
    return batches[0] if len(batches) == 1 else np.concatenate(batches)
