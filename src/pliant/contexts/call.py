"""The life of one call of a context: choose a level, restore, answer, journal, save."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from pliant.contexts.history import Turn, extend, shortened
from pliant.contexts.journal import ContextInfo
from pliant.contexts.pieces import Piece
from pliant.contexts.resident import ResidentSlot
from pliant.contexts.restore import RestoreReport
from pliant.contexts.shared import Shared
from pliant.contexts.work import Work
from pliant.engine.generate import CancelSignal, Chunk, TokenLoop
from pliant.engine.model import DEFAULT_MAX_TOKENS, Prompt
from pliant.engine.sampling import SamplingParams
from pliant.errors import RequestError
from pliant.slo.slo import Slo


@dataclass(frozen=True)
class CallRequest:
    """What is asked of a context, as `ElasticModel.generate` takes it. Either `slo` or `level` or
    neither, for the full model."""

    prompt: Prompt
    slo: Slo | None = None
    level: float | None = None
    max_tokens: int = DEFAULT_MAX_TOKENS
    sampling: SamplingParams | None = None
    stop: Sequence[str] = ()
    logprobs: int | None = None
    cancel: CancelSignal | None = None


class Call:
    """Answers one request of a context; `run` once.

    A call that fails, is cancelled or is closed early leaves the context as it was. `restored`
    says what was done before the prompt could be computed.
    """

    def __init__(self, shared: Shared, context: ContextInfo, request: CallRequest) -> None:
        self.restored = RestoreReport()
        self._shared = shared
        self._context = context
        self._request = request
        self._started = time.perf_counter()

    def run(self) -> Generator[Chunk, None, None]:
        """Chunks as they come; the last one once the call is in the journal."""
        with self._shared.exclusive(self._context.id):
            last = yield from self._answer()
        yield last

    def _answer(self) -> Generator[Chunk, None, Chunk]:
        shared = self._shared
        pieces = shared.journal.pieces(self._context.id)
        turn = self._turn(pieces)
        work = Work(shared, self._context, pieces, turn)
        level = shared.model.bundle.level(self._choose(work))
        loop = self._loop(work, level.ratio)
        unsaved = None
        try:
            with shared.memory.running(self._context.id, self._most_tokens(work)) as slot:
                shared.swapper.wait_for_encoder()
                try:
                    self.restored, computed = work.restore(slot, level)
                    last = yield from self._generate(loop, slot, computed)
                    assert last.generation is not None
                    if last.generation.finish_reason != "cancelled":
                        unsaved = work.commit(slot, loop, last.generation, level)
                finally:
                    unsaved = unsaved or work.undo(slot, level)
        finally:
            if unsaved is not None:
                shared.swapper.submit(unsaved)
        return last

    def _generate(
        self, loop: TokenLoop, slot: ResidentSlot, computed: int
    ) -> Generator[Chunk, None, Chunk]:
        """Hands out all chunks but the last, which it returns."""
        chunks = loop.run_in(slot.number, computed)
        for chunk in chunks:
            if chunk.generation is not None:
                return chunk
            self._shared.memory.hold(slot, loop.computed + 1)
            yield chunk
        raise AssertionError("an answer ends with its generation")

    def _turn(self, pieces: Sequence[Piece]) -> Turn:
        """The prompt; a chat that leaves no room for an answer is shortened if that is wanted."""
        model, compress = self._shared.model, self._shared.compress
        turn = extend(model, pieces, self._request.prompt)
        fits = len(turn.tokens) < model.engine.context_length
        if fits or compress is None or not turn.messages:
            return turn
        return shortened(model, pieces, turn, compress)

    def _choose(self, work: Work) -> float:
        """The ratio of the level that answers."""
        shared, request = self._shared, self._request
        if request.slo is None:
            return 1.0 if request.level is None else request.level
        if request.level is not None:
            raise RequestError("give either slo or level, not both")
        return shared.chooser.choose(
            request.slo,
            new_tokens=len(work.turn.tokens) - work.context_tokens,
            context_tokens=work.context_tokens,
            max_tokens=request.max_tokens,
            restore_ms=lambda ratio: work.predict_restore_ms(shared.model.bundle.level(ratio)),
        )

    def _loop(self, work: Work, ratio: float) -> TokenLoop:
        request = self._request
        return self._shared.model.token_loop(
            work.turn.tokens,
            level=ratio,
            max_tokens=request.max_tokens,
            sampling=request.sampling,
            stop=request.stop,
            logprobs=request.logprobs,
            cancel=request.cancel,
            started=self._started,
        )

    def _most_tokens(self, work: Work) -> int:
        """Positions that the call can come to fill."""
        most = len(work.turn.tokens) + self._request.max_tokens
        return min(most, self._shared.model.engine.context_length)
