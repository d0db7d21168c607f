"""`pliant run`: chat with a model in the terminal, or answer one prompt."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pliant.cli.answer import spelled
from pliant.cli.chat import Chat
from pliant.cli.request_options import (
    DEFAULT_MAX_TOKENS,
    MAX_PIPED,
    Compress,
    MaxTokens,
    System,
    Tpot,
    Ttft,
    check_piped,
)
from pliant.engine.options import EngineOptions, Layout
from pliant.engine.sampling import SamplingParams
from pliant.errors import RequestError, SloUnreachableError
from pliant.slo import Compression, Slo

if TYPE_CHECKING:
    from pliant.contexts.options import ContextOptions
    from pliant.engine.model import ElasticModel

_OPTIONS = EngineOptions()
_SAMPLING = SamplingParams()


def run(
    bundle: Annotated[
        str, typer.Argument(help="Name of a bundle, a bundle's folder, or a .gguf file.")
    ] = "pocket",
    prompt: Annotated[
        str | None, typer.Argument(help="Answer this and exit; without it (or piped text): chat.")
    ] = None,
    level: Annotated[
        float | None, typer.Option(help="Level to run at; `pliant show` lists them.")
    ] = None,
    ttft: Ttft = None,
    tpot: Tpot = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what nothing is predicted to meet.")
    ] = False,
    compress: Compress = "auto",
    system: System = None,
    max_tokens: MaxTokens = DEFAULT_MAX_TOKENS,
    temperature: Annotated[
        float, typer.Option(help="0 always takes the likeliest token.")
    ] = _SAMPLING.temperature,
    top_k: Annotated[
        int, typer.Option(help="Choose among so many likeliest tokens; 0: among all.")
    ] = _SAMPLING.top_k,
    top_p: Annotated[
        float, typer.Option(help="Choose among the likeliest tokens of this total probability.")
    ] = _SAMPLING.top_p,
    min_p: Annotated[
        float, typer.Option(help="Leave out tokens below this share of the likeliest one's.")
    ] = _SAMPLING.min_p,
    seed: Annotated[int | None, typer.Option(help="Repeat the same random choices.")] = None,
    context: Annotated[
        str | None,
        typer.Option(help="Go on in this persistent context (id or title), or begin it."),
    ] = None,
    context_memory: Annotated[
        str | None,
        typer.Option(help="Most memory for contexts, such as 256MiB, which is the default."),
    ] = None,
    when_full: Annotated[
        str | None,
        typer.Option(
            help="What a context that is as long as the model's gets: error, or compress, which "
            "shortens its oldest turns. Default: error."
        ),
    ] = None,
    emulate_storage: Annotated[
        str | None,
        typer.Option(help="Read contexts as from a slower disk, such as 200MB/s,100us."),
    ] = None,
    layout: Annotated[
        str, typer.Option(help="How weights lie in memory: auto, plain or repacked.")
    ] = _OPTIONS.layout,
    threads: Annotated[
        int | None, typer.Option(help="Most threads to use; default: the physical cores.")
    ] = None,
) -> None:
    """Chat with a model, or answer one prompt.

    Runs the full model unless --level names a smaller one, or --ttft and --tpot let pliant
    choose the level, and how much of the prompt it reads, so that the answer is fast enough. If
    nothing is, the closest answers, or with --strict none does. The answer goes to stdout, all
    else to stderr.

    With --context the chat outlives the program: what was said is journaled, and its KV cache
    kept, compressed, in memory and on the disk. `pliant contexts` lists and removes them.
    """
    import pliant

    slo = None if ttft is None and tpot is None else Slo.parse(ttft, tpot)
    if level is not None and slo is not None:
        raise RequestError("--level fixes the level, --ttft and --tpot choose it: give one kind")
    if strict and slo is None:
        raise RequestError("--strict is about --ttft and --tpot: give at least one of them")
    if compress != "auto" and slo is None:
        raise RequestError("--compress is about --ttft and --tpot: give at least one of them")
    compression = parse_compression(compress)
    kept = _context_options(context, context_memory, emulate_storage, when_full)
    if context is not None and compression not in ("auto", "off"):
        raise RequestError("--compress shortens prompts, and those of a --context stay whole")
    sampling = SamplingParams(temperature, top_k, top_p, min_p, seed=seed)
    options = EngineOptions(layout=cast(Layout, layout), threads=threads)
    if prompt is None and not sys.stdin.isatty():
        prompt = piped_text()
    if prompt is not None and not prompt.strip():
        raise RequestError("no prompt: give one as an argument or pipe it in")
    with (
        pliant.load(bundle, options) as model,
        _opened(
            model,
            context,
            kept,
            max_tokens=max_tokens,
            sampling=sampling,
            level=1.0 if level is None else level,
            slo=slo,
            policy="strict" if strict else "best_effort",
            compression=compression,
            system=system or "",
        ) as chat,
    ):
        _converse(chat, prompt)


def parse_compression(text: str) -> Compression:
    """From `auto`, `off`, or a ratio such as `0.5` or `50%`. Raises RequestError."""
    if text in ("auto", "off"):
        return cast(Compression, text)
    try:
        ratio = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        ratio = 0.0
    if not 0 < ratio <= 1:
        raise RequestError(f"--compress is {text!r}; allowed: auto, off, or a ratio such as 0.5")
    return ratio


def slo_options(sides: dict[str, str]) -> str:
    """An SLO as the options that ask for it."""
    return " ".join(f"--{side} {text}" for side, text in sides.items())


def _context_options(
    name: str | None, memory: str | None, storage: str | None, when_full: str | None
) -> "ContextOptions | None":
    """None without a context. Raises RequestError."""
    if name is not None:
        from pliant.cli.context_chat import context_options

        return context_options(memory, storage, when_full)
    options = {
        "--context-memory": memory,
        "--emulate-storage": storage,
        "--when-full": when_full,
    }
    for option, value in options.items():
        if value is not None:
            raise RequestError(f"{option} is about persistent contexts: name one with --context")
    return None


@contextmanager
def _opened(
    model: "ElasticModel", name: str | None, kept: "ContextOptions | None", **options: Any
) -> Iterator[Chat]:
    """The chat, in a context if one is named; closed at the end."""
    if name is None or kept is None:
        with closing(Chat(model, **options)) as chat:
            yield chat
        return
    from pliant.cli.context_chat import open_context_chat

    with open_context_chat(model, name, kept, **options) as chat:
        yield chat


def _converse(chat: Chat, prompt: str | None) -> None:
    if prompt is None:
        chat.repl()
        return
    try:
        told = chat.answer(prompt)
    except SloUnreachableError as error:
        raise spelled(error, slo_options) from error
    if told.is_stopped:
        raise KeyboardInterrupt


def piped_text() -> str:
    """Raises RequestError for bytes that are no text, and for too many."""
    try:
        text = sys.stdin.read(MAX_PIPED + 1)
    except UnicodeDecodeError as error:
        raise RequestError(f"the piped prompt is not text: {error}") from error
    check_piped(len(text))
    return text.strip()
