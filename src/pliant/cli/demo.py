"""`pliant demo`: one loaded model answers six apps, each request within its SLO."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import psutil
import typer
from rich.live import Live

from pliant.cli.chat import announce_calibration
from pliant.cli.demo_report import Memory, Report, Row, live_view, rows_table, summary
from pliant.cli.demo_requests import DemoRequest, built_in_requests, read_requests
from pliant.cli.output import console, print_json
from pliant.slo import Orchestrator, open_orchestrator

if TYPE_CHECKING:
    from pliant.engine.model import ElasticModel

MAX_ANSWER_TOKENS = 48
_SWITCH_REPEATS = 9


def demo(
    bundle: Annotated[
        str, typer.Option(help="Name of a bundle, a bundle's folder, or a .gguf file.")
    ] = "pocket",
    requests: Annotated[
        Path | None,
        typer.Option(help="Requests to answer instead of the built-in ones (JSON lines)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Answer requests of six apps, each within its own latency SLO.

    An SLO <80%,90%> allows 80% of the full model's time to first token (TTFT) and 90% of its
    time per output token (TPOT). The first run on a device measures it for up to 15 seconds.
    Every request is then answered once more by the full model, for comparison.
    """
    import pliant

    asked = read_requests(requests or built_in_requests())
    with pliant.load(bundle) as model:
        for request in asked:
            # What cannot be answered is said before the device is measured.
            model.room_after(len(model.encode_prompt(request.messages)))
        with open_orchestrator(model, before_calibration=announce_calibration) as orchestrator:
            report = _run(orchestrator, asked, is_live=_is_live(as_json))
    if as_json:
        print_json(report.to_json())
        return
    out = console()
    out.print(rows_table(report.rows))
    out.print()
    out.print(summary(report))


def _is_live(as_json: bool) -> bool:
    return not as_json and console().is_terminal


def _run(orchestrator: Orchestrator, asked: Sequence[DemoRequest], *, is_live: bool) -> Report:
    model = orchestrator.model
    print(f"answering {len(asked)} requests ...", file=sys.stderr)
    answering = (_answer(orchestrator, request) for request in asked)
    rows = _show_live(answering, len(asked)) if is_live else list(answering)
    print("answering them at full level, to compare ...", file=sys.stderr)
    full_right = sum(_is_right_at_full_level(model, row) for row in rows)
    return Report(rows, full_right, _measure_switch(model, rows), _memory(model))


def _show_live(answering: Iterable[Row], num_requests: int) -> list[Row]:
    """All rows, in a table that grows meanwhile. It is drawn between requests only: a thread
    that draws would slow what is being measured."""
    rows: list[Row] = []
    out = console()
    with Live(console=out, auto_refresh=False, transient=True) as live:
        for row in answering:
            rows.append(row)
            live.update(live_view(rows, num_requests, out), refresh=True)
    return rows


def _answer(orchestrator: Orchestrator, request: DemoRequest) -> Row:
    found = orchestrator.answer(request.messages, request.slo, max_tokens=MAX_ANSWER_TOKENS)
    return Row(request, found)


def _is_right_at_full_level(model: "ElasticModel", row: Row) -> bool:
    if row.level == 1.0 and row.answer.decision.strategy.prompt_ratio == 1.0:
        return row.is_right
    found = model.generate(row.request.messages, max_tokens=MAX_ANSWER_TOKENS)
    return row.request.is_right(found.text)


def _measure_switch(model: "ElasticModel", rows: Sequence[Row]) -> float:
    """Extra TTFT of a request after another level's, as a share of the TTFT after its own.

    The same prompt again and again, so that nothing but the level before it differs.
    """
    used = sorted({row.level for row in rows})
    if len(used) < 2:
        return 0.0
    other, level = used[0], used[-1]
    messages = rows[0].request.messages
    after_switch, after_same = [], []
    for _ in range(_SWITCH_REPEATS):
        _first_token(model, messages, other)
        after_switch.append(_first_token(model, messages, level))
        after_same.append(_first_token(model, messages, level))
    return median(after_switch) / median(after_same) - 1


def _first_token(
    model: "ElasticModel", messages: Sequence[Mapping[str, str]], level: float
) -> float:
    return model.generate(messages, level=level, max_tokens=1).ttft_ms


def _memory(model: "ElasticModel") -> Memory:
    weights = model.engine.memory
    return Memory(psutil.Process().memory_info().rss, weights.mapped + weights.copied)
