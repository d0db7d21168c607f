"""`pliant run`: chat with a model in the terminal, or answer one prompt."""

import io
import sys
from typing import Annotated, cast

import typer

from pliant.cli.chat import Chat
from pliant.engine.options import EngineOptions, Layout
from pliant.engine.sampling import SamplingParams
from pliant.errors import RequestError
from pliant.slo import Slo

_OPTIONS = EngineOptions()
_SAMPLING = SamplingParams()
DEFAULT_MAX_TOKENS = 256


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
    ttft: Annotated[
        str | None,
        typer.Option(help="Time to first token: 0.4 or 40% of the full model's, or 400ms."),
    ] = None,
    tpot: Annotated[
        str | None, typer.Option(help="Time per output token: 0.6, 60% or 25ms.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse what no level is predicted to meet.")
    ] = False,
    system: Annotated[
        str | None, typer.Option(help="System message: what the model is for.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer, in tokens.")
    ] = DEFAULT_MAX_TOKENS,
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
    choose the largest that is fast enough. If none is, the closest answers, or with --strict
    none does. The answer goes to stdout, all else to stderr.
    """
    import pliant

    slo = None if ttft is None and tpot is None else Slo.parse(ttft, tpot)
    if level is not None and slo is not None:
        raise RequestError("--level fixes the level, --ttft and --tpot choose it: give one kind")
    if strict and slo is None:
        raise RequestError("--strict is about --ttft and --tpot: give at least one of them")
    sampling = SamplingParams(temperature, top_k, top_p, min_p, seed=seed)
    options = EngineOptions(layout=cast(Layout, layout), threads=threads)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character shows a question mark instead.
        sys.stdout.reconfigure(errors="replace")
    if prompt is None and not sys.stdin.isatty():
        prompt = _piped_text()
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
            system=system or "",
        )
        if prompt is None:
            chat.repl()
        elif chat.answer(prompt).is_stopped:
            raise KeyboardInterrupt


def _piped_text() -> str:
    try:
        return sys.stdin.read().strip()
    except UnicodeDecodeError as error:
        raise RequestError(f"the piped prompt is not text: {error}") from error
