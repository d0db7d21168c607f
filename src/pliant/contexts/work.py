"""What one call does to its context: which positions are restored, which levels they have now,
what is journaled, and what is left to save."""

from collections.abc import Sequence
from dataclasses import replace

from pliant.bundle import Level
from pliant.contexts.history import Turn, answer_piece, updated
from pliant.contexts.journal import ContextInfo
from pliant.contexts.pieces import History, Piece
from pliant.contexts.resident import ResidentSlot
from pliant.contexts.restore import RestoreReport
from pliant.contexts.shared import Shared
from pliant.contexts.spans import ChunkSpan, chunk_spans
from pliant.contexts.swapout import Unsaved
from pliant.engine.generate import Generation, TokenLoop


class Work:
    """Of a context with the history `pieces` and a call that makes a `turn` of it.

    The last token of a history is never stored: the next prompt computes it.
    """

    def __init__(
        self, shared: Shared, context: ContextInfo, pieces: Sequence[Piece], turn: Turn
    ) -> None:
        self.turn = turn
        self._shared = shared
        self._context = context
        self._pieces = pieces
        self._history = History.of(pieces)
        self._space = shared.space(context.app)
        self._old = self._spans(self._history.tokens, self._history.levels)
        self._kept = [span for span in self._old if span.stop <= turn.common]
        self._computed = 0
        self._levels: list[float] = []

    @property
    def context_tokens(self) -> int:
        """Tokens that can be restored."""
        return self._kept[-1].stop if self._kept else 0

    @property
    def num_stored(self) -> int:
        """Tokens of the history that the prompt continues and that were ever stored."""
        return max(0, min(self.turn.common, len(self._history.tokens) - 1))

    def predict_restore_ms(self, levels: Sequence[Level]) -> dict[float, float]:
        """Of the whole restore for a call at each of them, with what is lost computed again."""
        slot = self._shared.memory.resident(self._context.id)
        missing = [
            (level, self._kept if slot is None else slot.missing(self._kept, level.ratio))
            for level in levels
        ]
        predicted = self._shared.restorer.predict_ms(missing)
        return {level.ratio: ms for level, ms in zip(levels, predicted, strict=True)}

    def restore(self, slot: ResidentSlot, level: Level) -> tuple[RestoreReport, int]:
        """Make the slot ready; also says from which position on the prompt is to be computed."""
        shared, tokens = self._shared, self.turn.tokens
        slot.expect(tokens)
        shared.memory.hold(slot, len(tokens))
        missing = slot.missing(self._kept, level.ratio)
        recomputed = self._drop_lost_end(missing, level)
        report = RestoreReport()
        if missing:
            report = shared.restorer.restore(slot, tokens, missing, level)
        counted = replace(report, recomputed=report.recomputed + recomputed)
        shared.count(counted, restores=bool(missing))
        self._computed = slot.computed(level.ratio, len(tokens) - 1)
        self._levels = self._new_levels(level.ratio)
        return report, self._computed

    def _drop_lost_end(self, missing: list[ChunkSpan], level: Level) -> int:
        """Take the lost chunks at the end from those to restore: the prompt follows, and both are
        computed together. How many tokens these are."""
        count = 0
        while missing and missing[-1] is self._kept[-1]:
            if not self._shared.restorer.is_lost(missing[-1], level):
                break
            self._kept.pop()
            span = missing.pop()
            count += span.stop - span.start
        return count

    def commit(
        self, slot: ResidentSlot, loop: TokenLoop, generation: Generation, level: Level
    ) -> Unsaved:
        """Journal the call; durable when it returns."""
        model, turn = self._shared.model, self.turn
        written = (*turn.tokens, *generation.tokens)[self._computed : loop.computed]
        slot.append(written, self._computed, level.ratio)
        answer = answer_piece(
            model, turn, generation.text, generation.tokens, loop.end, level.ratio
        )
        start, pieces = updated(self._pieces, turn, self._levels)
        journal, context = self._shared.journal, self._context.id
        if start == len(self._history.tokens):
            journal.append(context, [*pieces, *answer])
        else:
            journal.rewrite(context, start, [*pieces, *answer])
        said = [token for piece in answer for token in piece.tokens]
        tokens = (*turn.tokens, *said)
        levels = (*self._levels, *(level.ratio for _ in said))
        spans = self._spans(tokens, levels)
        keys = {span.key for span in spans}
        outdated = [span.key for span in self._old if span.key not in keys]
        return Unsaved(context, slot, slot.epoch, tokens, spans, outdated, level)

    def undo(self, slot: ResidentSlot, level: Level) -> Unsaved:
        """Leave in the slot what is of the history, at the levels of the history."""
        slot.expect(self._history.tokens)
        for span in self._old:
            if span.level < level.ratio:
                slot.mark(span.start, span.stop, 0)
        tokens = self._history.tokens
        return Unsaved(self._context.id, slot, slot.epoch, tokens, self._old, [], level)

    def _new_levels(self, ratio: float) -> list[float]:
        """Of all tokens of the turn: chunks of a lower level were computed again, and so is what
        follows the restored part."""
        levels = list(self._history.levels[: self.turn.common])
        levels += [ratio] * (len(self.turn.tokens) - len(levels))
        for span in self._kept:
            if span.level < ratio:
                levels[span.start : span.stop] = [ratio] * (span.stop - span.start)
        levels[self._computed :] = [ratio] * (len(levels) - self._computed)
        return levels

    def _spans(self, tokens: Sequence[int], levels: Sequence[float]) -> list[ChunkSpan]:
        stored = max(0, len(tokens) - 1)
        return chunk_spans(self._space, tokens[:stored], levels[:stored])
