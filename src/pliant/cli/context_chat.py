"""A chat in a persistent context: it goes on from where it was when the program ended."""

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, cast, get_args

from pliant.cli.answer import Told
from pliant.cli.chat import Chat, Interrupt, announce_calibration, say, show
from pliant.cli.contexts import CHAT_APP, find_context
from pliant.cli.output import terminal_safe
from pliant.contexts.call import CallRequest
from pliant.contexts.context import Context
from pliant.contexts.contexts import Contexts
from pliant.contexts.options import ContextOptions, Overflow, parse_bytes
from pliant.contexts.storage import parse_storage
from pliant.errors import RequestError, UnknownContextError
from pliant.slo import Orchestrator

if TYPE_CHECKING:
    from pliant.engine.model import ElasticModel
    from pliant.engine.sampling import SamplingParams

_ID = re.compile(r"[0-9a-f]{32}")


class ContextChat(Chat):
    """Its messages are in a context, which keeps its system message, too."""

    def __init__(
        self,
        model: "ElasticModel",
        contexts: Contexts,
        context: Context,
        max_tokens: int,
        sampling: "SamplingParams",
        **pace: Any,
    ) -> None:
        """`pace` as of `Chat`. Raises UnknownLevelError."""
        self._contexts = contexts
        self._context = context
        super().__init__(model, max_tokens, sampling, **pace)

    def _ask(self, text: str, interrupt: Interrupt) -> Told:
        pace = self._pace
        request = CallRequest(
            [{"role": "user", "content": text}],
            slo=pace.slo,
            level=pace.level if pace.slo is None else None,
            max_tokens=self._max_tokens,
            sampling=self._sampling,
            cancel=interrupt,
            policy=pace.policy,
        )
        call = self._context.start(request)
        with closing(call.run()) as chunks:
            for chunk in chunks:
                show(chunk.text)
        assert chunk.generation is not None and call.report is not None
        decision = None if pace.slo is None else call.report.decision
        return Told(chunk.generation, call.report.ttft_ms, decision, call.report)

    def _set_system(self, text: str) -> None:
        raise RequestError(
            "a context keeps its system message: begin another context for a new one"
        )

    def _forget(self) -> None:
        raise RequestError(
            f"a context keeps what was said: `pliant contexts rm {self._context.id}` removes it"
        )

    def _open_orchestrator(self) -> Orchestrator:
        return self._contexts.orchestrator()


def context_options(
    memory: str | None, storage: str | None, when_full: str | None
) -> ContextOptions:
    """From what was typed. Raises RequestError, which names the option."""
    found: dict[str, Any] = {}
    if memory is not None:
        with _naming("--context-memory"):
            found["memory_bytes"] = ContextOptions(parse_bytes(memory)).memory_bytes
    if storage is not None:
        with _naming("--emulate-storage"):
            found["storage"] = parse_storage(storage)
    if when_full is not None:
        if when_full not in get_args(Overflow):
            choices = ", ".join(get_args(Overflow))
            raise RequestError(f"--when-full is {when_full!r}; allowed: {choices}")
        found["overflow"] = cast(Overflow, when_full)
    return ContextOptions(**found)


@contextmanager
def open_context_chat(
    model: "ElasticModel",
    name: str,
    options: ContextOptions,
    max_tokens: int,
    sampling: "SamplingParams",
    *,
    system: str = "",
    **pace: Any,
) -> Iterator[Chat]:
    """A chat in the context of this id or title; one of a new title is begun, with `system`.

    Raises RequestError for a name that says nothing or too much, a system message for a context
    that has begun, a context of another model; and as `Contexts` does.
    """
    with Contexts(model, options=options, before_calibration=announce_calibration) as contexts:
        context = _find_or_begin(contexts, name, system)
        yield ContextChat(model, contexts, context, max_tokens, sampling, **pace)


def _find_or_begin(contexts: Contexts, name: str, system: str) -> Context:
    info = find_context(contexts.list(CHAT_APP), name)
    if info is None:
        if _ID.fullmatch(name):
            raise UnknownContextError(f"there is no context {name}")
        context = contexts.create(CHAT_APP, system or None, title=name)
        say(f"new context {terminal_safe(name)} ({context.id})")
        return context
    if system:
        raise RequestError(
            f"context {name!r} keeps the system message it was begun with: no --system"
        )
    context = contexts.open(CHAT_APP, info.id)
    context.require_model()
    say(f"context {terminal_safe(name)} ({context.id}), {info.num_tokens} tokens")
    return context


@contextmanager
def _naming(option: str) -> Iterator[None]:
    """What is wrong with an option begins with its name."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{option}: {error}") from None
