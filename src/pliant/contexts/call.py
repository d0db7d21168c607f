"""The life of one call of a context: choose a level, restore, answer, journal, save."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from pliant.contexts.choice import Waiting
from pliant.contexts.history import Turn, extend, shortened
from pliant.contexts.journal import ContextInfo
from pliant.contexts.pieces import Piece
from pliant.contexts.report import CallReport
from pliant.contexts.resident import ResidentSlot
from pliant.contexts.restore import RestoreReport
from pliant.contexts.shared import Shared
from pliant.contexts.work import Work
from pliant.engine.generate import CancelSignal, Chunk, Generation, TokenLoop
from pliant.engine.model import DEFAULT_MAX_TOKENS, Prompt
from pliant.engine.sampling import SamplingParams
from pliant.errors import ContextOverflowError, RequestError
from pliant.slo.decision import Decision, Policy
from pliant.slo.slo import Slo


@dataclass(frozen=True)
class CallRequest:
    """What is asked of a context, as `ElasticModel.generate` takes it. Either `slo` (and what to
    do when nothing meets it) or `level` or neither, for the full model."""

    prompt: Prompt
    slo: Slo | None = None
    level: float | None = None
    max_tokens: int = DEFAULT_MAX_TOKENS
    sampling: SamplingParams | None = None
    stop: Sequence[str] = ()
    logprobs: int | None = None
    cancel: CancelSignal | None = None
    policy: Policy = "best_effort"


class Call:
    """Answers one request of a context; `run` once.

    A call that fails, is cancelled or is closed early leaves the context as it was. `restored`
    says what was done before the prompt could be computed, and `report`, with the last chunk, all
    that the call took.
    """

    def __init__(self, shared: Shared, context: ContextInfo, request: CallRequest) -> None:
        self.restored = RestoreReport()
        self.report: CallReport | None = None
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
        decision = self._decide(work)
        level = shared.model.bundle.level(
            self._asked_level if decision is None else decision.strategy.level
        )
        loop = self._loop(work, level.ratio)
        unsaved = None
        try:
            with shared.memory.running(self._context.id, self._most_tokens(work)) as slot:
                shared.swapper.wait_for_encoder()
                try:
                    self.restored, computed = work.restore(slot, level)
                    ready_ms = self._elapsed_ms()
                    last = yield from self._generate(loop, slot, computed)
                    assert last.generation is not None
                    if last.generation.finish_reason != "cancelled":
                        unsaved = work.commit(slot, loop, last.generation, level)
                finally:
                    unsaved = unsaved or work.undo(slot, level)
        finally:
            if unsaved is not None:
                shared.swapper.submit(unsaved)
        self._finish(work, decision, last.generation, computed, ready_ms)
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
        model, scorer = self._shared.model, self._shared.scorer
        turn = extend(model, pieces, self._request.prompt)
        length, limit = len(turn.tokens), model.engine.context_length
        if length < limit or not pieces:
            return turn
        if scorer is not None and turn.messages:
            return shortened(model, pieces, turn, scorer)
        shorten = ', or let old turns be shortened (overflow="compress", --when-full compress)'
        raise ContextOverflowError(
            f"context {self._context.id} has {length} tokens with this prompt, but the model's "
            f"holds {limit}: begin a new one{shorten if turn.messages else ''}",
            needed_tokens=length + 1,
            available_tokens=limit,
        )

    def _decide(self, work: Work) -> Decision | None:
        """The level that answers and what it is predicted to take, if that can be known."""
        shared, request = self._shared, self._request
        if request.slo is not None and request.level is not None:
            raise RequestError("give either slo or level, not both")
        if request.slo is None and shared.chooser.orchestrator is None:
            return None
        levels = shared.model.levels
        if request.slo is None:
            levels = (shared.model.bundle.level(self._asked_level),)
        start, restore_ms = work.context_tokens, work.predict_restore_ms(levels)
        waiting = Waiting(work.turn.tokens[start:], start, restore_ms, self._elapsed_ms())
        return shared.chooser.decide(
            waiting, request.slo, self._asked_level, request.max_tokens, request.policy
        )

    def _finish(
        self,
        work: Work,
        decision: Decision | None,
        generation: Generation,
        computed: int,
        ready_ms: float,
    ) -> None:
        """Report, and let the next predictions learn."""
        restored = self.restored
        brought = restored.from_memory + restored.from_disk
        from_slot = min(computed, work.num_stored) - brought - restored.recomputed
        self.report = CallReport(
            generation.level,
            generation.ttft_ms,
            generation.tpot_ms,
            decision,
            restored,
            from_slot,
            work.num_stored - from_slot - brought,
        )
        if decision is not None:
            prefill_ms = generation.ttft_ms - ready_ms
            tokens = work.turn.tokens[computed:]
            self._shared.chooser.observe(decision, generation, restored, tokens, prefill_ms)

    @property
    def _asked_level(self) -> float:
        return 1.0 if self._request.level is None else self._request.level

    def _elapsed_ms(self) -> float:
        return 1000 * (time.perf_counter() - self._started)

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
