"""One context, as an app holds it."""

from collections.abc import Generator, Sequence

from pliant.contexts.call import Call, CallRequest
from pliant.contexts.journal import ContextId, ContextInfo
from pliant.contexts.pieces import History
from pliant.contexts.shared import Shared
from pliant.contexts.spans import chunk_spans
from pliant.engine.generate import CancelSignal, Chunk, Generation
from pliant.engine.model import DEFAULT_MAX_TOKENS, Prompt
from pliant.engine.sampling import SamplingParams
from pliant.errors import RequestError
from pliant.slo.slo import Slo


class Context:
    """A conversation that continues from call to call; made by `Contexts`."""

    def __init__(self, shared: Shared, app: str, context: ContextId) -> None:
        self.app = app
        self.id = context
        self._shared = shared

    def call(
        self,
        prompt: Prompt,
        *,
        slo: Slo | None = None,
        level: float | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        sampling: SamplingParams | None = None,
        stop: Sequence[str] = (),
        logprobs: int | None = None,
        cancel: CancelSignal | None = None,
    ) -> Generation:
        """Answer what `prompt` adds to the context: messages of a chat, or text or token ids that
        continue it as it stands. Takes `slo` or `level`, else the full model.

        When it returns, prompt and answer are in the journal; a call that is cancelled or raises
        leaves the context as it was. Raises as `ElasticModel.generate` does, and BusyError while
        another call has the context, MemoryBudgetError if it does not fit the budget,
        JournalWriteError if it cannot be journaled.
        """
        *_, last = self.stream(
            prompt,
            slo=slo,
            level=level,
            max_tokens=max_tokens,
            sampling=sampling,
            stop=stop,
            logprobs=logprobs,
            cancel=cancel,
        )
        assert last.generation is not None
        return last.generation

    def stream(
        self,
        prompt: Prompt,
        *,
        slo: Slo | None = None,
        level: float | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        sampling: SamplingParams | None = None,
        stop: Sequence[str] = (),
        logprobs: int | None = None,
        cancel: CancelSignal | None = None,
    ) -> Generator[Chunk, None, None]:
        """As `call`, a chunk per token; the last one, with the `generation` as a whole, comes when
        the call is in the journal. Errors come with the first chunk; closing the iterator before
        the last one cancels. For what a call took, and why at its level: `start`."""
        request = CallRequest(prompt, slo, level, max_tokens, sampling, stop, logprobs, cancel)
        return self.start(request).run()

    def start(self, request: CallRequest) -> Call:
        """A call that is not running yet; when it has, its `report` says what it took.

        The first one with an SLO may measure the device before.
        """
        info = self.require_model()
        if request.slo is not None:
            self._shared.chooser.open()
        return Call(self._shared, info, request)

    def require_model(self) -> ContextInfo:
        """As `stat`; raises RequestError if the context is one of another model."""
        info = self.stat()
        if info.model != self._shared.model.bundle.sha256:
            raise RequestError(
                f"context {self.id} belongs to another model ({info.model[:12]}); open it with that"
            )
        return info

    def stat(self) -> ContextInfo:
        """Raises UnknownContextError once the context is deleted."""
        return self._shared.journal.get(self.id, self.app)

    def fork(self, *, title: str | None = None) -> "Context":
        """A new context with the same history; what is stored of it is shared."""
        shared = self._shared
        self.stat()
        copy = shared.journal.fork(self.id, title=title)
        history = History.of(shared.journal.pieces(copy))
        stored = max(0, len(history.tokens) - 1)
        spans = chunk_spans(
            shared.space(self.app), history.tokens[:stored], history.levels[:stored]
        )
        shared.store.share(copy, [span.key for span in spans])
        return Context(shared, self.app, copy)

    def delete(self) -> None:
        """Remove the context and its KV for good; BusyError while a call has it."""
        shared = self._shared
        self.stat()
        with shared.exclusive(self.id):
            shared.journal.delete(self.id)
            with shared.swapper.paused():
                shared.memory.drop(self.id)
            with shared.swapper.storing():
                gone = shared.store.drop_context(self.id)
            for key in gone:
                shared.memory.forget(key)
