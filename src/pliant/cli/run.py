"""`pliant run`: chat with a model in the terminal, or answer one prompt."""

import sys
from contextlib import closing
from typing import Annotated, cast

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
    sampling = SamplingParams(temperature, top_k, top_p, min_p, seed=seed)
    options = EngineOptions(layout=cast(Layout, layout), threads=threads)
    if prompt is None and not sys.stdin.isatty():
        prompt = piped_text()
    if prompt is not None and not prompt.strip():
        raise RequestError("no prompt: give one as an argument or pipe it in")
    with pliant.load(bundle, options) as model:
        chat = Chat(
            model,
            max_tokens,
            sampling,
            level=1.0 if level is None else level,
            slo=slo,
            policy="strict" if strict else "best_effort",
            compression=compression,
            system=system or "",
        )
        with closing(chat):
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
