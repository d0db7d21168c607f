"""`pliant explain`: which level and how much of a prompt an SLO gets, and why."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pliant.cli.chat import announce_calibration
from pliant.cli.output import console, print_json, print_table, table, terminal_safe
from pliant.cli.request_options import (
    DEFAULT_MAX_TOKENS,
    Compress,
    MaxTokens,
    System,
    Tpot,
    Ttft,
)
from pliant.cli.run import parse_compression, piped_text
from pliant.errors import RequestError
from pliant.slo import (
    Compression,
    Decision,
    Margins,
    Orchestrator,
    Reader,
    Slo,
    Strategy,
    open_orchestrator,
)
from pliant.slo.survey import Survey

if TYPE_CHECKING:
    from pliant.engine.chat import Message

_FEASIBLE, _TOO_SLOW, _CHOSEN, _DROPPED = "green", "dim", "bold reverse green", "dim strike"


def explain(
    prompt: Annotated[
        str | None, typer.Argument(help="The request; without it: what is piped in.")
    ] = None,
    ttft: Ttft = None,
    tpot: Tpot = None,
    bundle: Annotated[
        str, typer.Option(help="Name of a bundle, a bundle's folder, or a .gguf file.")
    ] = "pocket",
    system: System = None,
    compress: Compress = "auto",
    max_tokens: MaxTokens = DEFAULT_MAX_TOKENS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show what an SLO gets: the level, how much of the prompt, and why.

    Prints the predicted time to first token of every level (rows) with every share of the prompt
    (columns); a star marks what meets the SLO, brackets the choice. P is what the tiny language
    model thinks of each. Nothing is answered.
    """
    import pliant

    slo = Slo.parse(ttft, tpot)
    compression = parse_compression(compress)
    text = piped_text() if prompt is None else prompt
    if not text.strip():
        raise RequestError("no prompt: give one as an argument or pipe it in")
    messages = [{"role": "user", "content": text}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    with (
        pliant.load(bundle) as model,
        open_orchestrator(model, before_calibration=announce_calibration) as orchestrator,
    ):
        explained = _explained(orchestrator, messages, slo, max_tokens, compression)
    if as_json:
        print_json(_document(explained))
    else:
        _print(explained)


@dataclass(frozen=True)
class _Explained:
    """A decision, with all that could have been decided: the grid, and what the TLM said of the
    levels and of the prompt ratios (empty without one)."""

    decision: Decision
    slo: Slo
    margins: Margins
    messages: "Sequence[Message]"
    grid: tuple[Strategy, ...]
    levels: dict[float, float]
    prompt_ratios: dict[float, float]


def _explained(
    orchestrator: Orchestrator,
    messages: "Sequence[Message]",
    slo: Slo,
    max_tokens: int,
    compression: Compression,
) -> _Explained:
    ask: dict[str, Any] = {"max_tokens": max_tokens, "compression": compression}
    survey = orchestrator.survey(messages, slo, **ask)
    # The first decision reads weights and builds graphs: no request of a service does.
    orchestrator.decide(messages, slo, **ask)
    decision = orchestrator.decide(messages, slo, **ask)
    grid = tuple(_same_pair(s, decision.candidates) or s for s in survey.candidates)
    margins = orchestrator.latency.margins
    return _Explained(
        decision, slo, margins, messages, grid, *_probabilities(orchestrator.tlm, survey)
    )


def _same_pair(strategy: Strategy, among: Sequence[Strategy]) -> Strategy | None:
    """As it was decided on: with or without the time that the TLM takes."""
    pair = strategy.level, strategy.prompt_ratio
    return next((s for s in among if (s.level, s.prompt_ratio) == pair), None)


def _probabilities(
    tlm: Reader | None, survey: Survey
) -> tuple[dict[float, float], dict[float, float]]:
    reading = survey.reading
    if tlm is None or reading is None:
        return {}, {}
    return (
        dict(zip(tlm.levels, reading.levels, strict=True)),
        dict(zip(tlm.prompt_ratios, reading.prompt_ratios, strict=True)),
    )


def _document(explained: _Explained) -> dict[str, Any]:
    decision, slo, margins = explained.decision, explained.slo, explained.margins
    limits = decision.limits
    return {
        "slo": {"ttft": slo.ttft, "tpot": slo.tpot, "ttft_ms": slo.ttft_ms, "tpot_ms": slo.tpot_ms},
        "limits": {"ttft_ms": limits.ttft_ms, "tpot_ms": limits.tpot_ms},
        "full_model": {"ttft_ms": limits.full_ttft_ms, "tpot_ms": limits.full_tpot_ms},
        "margins": {"ttft": margins.ttft, "tpot": margins.tpot},
        "grid": [_strategy(s) for s in explained.grid],
        "level_probabilities": explained.levels,
        "prompt_ratio_probabilities": explained.prompt_ratios,
        "choice": _strategy(decision.strategy),
        "why": decision.why,
        "prompt_tokens": decision.work.prompt_tokens,
        "shortened_tokens": len(decision.tokens),
        "messages": [dict(message) for message in _messages(decision)],
        "decide_ms": decision.decide_ms,
        "tlm_ms": decision.read_ms + decision.compress_ms,
    }


def _strategy(strategy: Strategy) -> dict[str, Any]:
    return {
        "level": strategy.level,
        "prompt_ratio": strategy.prompt_ratio,
        "prompt_tokens": strategy.prompt_tokens,
        "predicted_ttft_ms": strategy.predicted_ttft_ms,
        "predicted_tpot_ms": strategy.predicted_tpot_ms,
        "feasible": strategy.feasible,
    }


def _messages(decision: Decision) -> "Sequence[Message]":
    return [message for message in decision.prompt if isinstance(message, Mapping)]


def _print(explained: _Explained) -> None:
    out, decision = console(), explained.decision
    for line in _facts(decision, explained.slo, explained.margins):
        out.print(line, highlight=False)
    out.print()
    print_table(_grid(explained))
    out.print()
    chosen = decision.strategy
    out.print(
        f"choice     level {chosen.level:g} with {decision.prompt_ratio:.0%} of the prompt: "
        f"TTFT {chosen.predicted_ttft_ms:.1f} ms, TPOT {chosen.predicted_tpot_ms:.2f} ms",
        style="bold",
        highlight=False,
    )
    out.print(f"why        {decision.why}", highlight=False)
    out.print(
        f"deciding   {decision.decide_ms:.1f} ms, of which the TLM {decision.read_ms:.1f} ms and "
        f"shortening {decision.compress_ms:.1f} ms",
        highlight=False,
    )
    if decision.kept is not None:
        out.print(f"\nwhat is left of the prompt ({len(decision.tokens)} tokens):", highlight=False)
        out.print(_shortened(explained.messages, decision))


def _facts(decision: Decision, slo: Slo, margins: Margins) -> Iterator[str]:
    limits = decision.limits
    yield f"prompt     {decision.work.prompt_tokens} tokens"
    yield (
        f"full model TTFT {limits.full_ttft_ms:.1f} ms, TPOT {limits.full_tpot_ms:.2f} ms for the "
        "whole prompt"
    )
    yield f"SLO        {slo}: " + ", ".join(
        f"{name} {'without a limit' if limit is None else f'at most {limit:.{digits}f} ms'}"
        for name, limit, digits in (("TTFT", limits.ttft_ms, 1), ("TPOT", limits.tpot_ms, 2))
    )
    yield f"margins    {margins.ttft:.0%} of the TTFT, {margins.tpot:.0%} of the TPOT"


def _grid(explained: _Explained) -> Table:
    """TTFTs by level and prompt ratio, with each level's TPOT for what is left at the most."""
    ratios = explained.prompt_ratios
    columns = list(dict.fromkeys(s.prompt_ratio for s in explained.grid))
    made = table("level", "P", "TPOT ms", *(f"{ratio:.0%}" for ratio in columns), left=0)
    if ratios:
        made.add_row("", "P", "", *(_percent(ratios.get(ratio)) for ratio in columns))
    for level in dict.fromkeys(s.level for s in explained.grid):
        row = [s for s in explained.grid if s.level == level]
        cells = [_cell(s, is_chosen=s == explained.decision.strategy) for s in row]
        tpot = f"{row[-1].predicted_tpot_ms:.2f}"
        made.add_row(f"{level:g}", _percent(explained.levels.get(level)), tpot, *cells)
    return made


def _cell(strategy: Strategy, *, is_chosen: bool) -> Text:
    text = f"{strategy.predicted_ttft_ms:.1f}{'*' if strategy.feasible else ' '}"
    if is_chosen:
        return Text(f"[{text.strip()}]", _CHOSEN)
    return Text(f"{text} ", _FEASIBLE if strategy.feasible else _TOO_SLOW)


def _percent(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.0%}"


def _shortened(messages: "Sequence[Message]", decision: Decision) -> Text:
    """On a coloured terminal all of it, what was left out struck through."""
    from pliant.tlm.compress import prompt_text

    out = console()
    if not out.is_terminal or out.no_color:
        return Text(terminal_safe(prompt_text(_messages(decision))))
    original, shown, position = prompt_text(messages), Text(), 0
    for start, end in [*(decision.kept or ()), (len(original), len(original))]:
        shown.append(terminal_safe(original[position:start]), _DROPPED)
        shown.append(terminal_safe(original[start:end]))
        position = end
    return shown
