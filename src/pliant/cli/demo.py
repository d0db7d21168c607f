"""`pliant demo`: one loaded model answers six apps, each request at the level its SLO allows."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import psutil
import typer
from rich.live import Live

from pliant.cli.answer import Answer, choose_level, stream_answer
from pliant.cli.chat import announce_calibration
from pliant.cli.demo_report import Memory, Report, Row, live_view, rows_table, summary
from pliant.cli.demo_requests import DemoRequest, built_in_requests, read_requests
from pliant.cli.output import console, print_json
from pliant.slo import LatencyModel, load_or_calibrate

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
        latency = load_or_calibrate(model, before_calibration=announce_calibration)
        report = _run(model, latency, asked, _answer_live if _is_live(as_json) else _answer_all)
    if as_json:
        print_json(report.to_json())
        return
    out = console()
    out.print(rows_table(report.rows))
    out.print()
    out.print(summary(report))


Answering = Callable[["ElasticModel", LatencyModel, Sequence[DemoRequest]], list[Row]]


def _is_live(as_json: bool) -> bool:
    return not as_json and console().is_terminal


def _run(
    model: "ElasticModel", latency: LatencyModel, asked: Sequence[DemoRequest], answer: Answering
) -> Report:
    print(f"answering {len(asked)} requests ...", file=sys.stderr)
    rows = answer(model, latency, asked)
    print("answering them at full level, to compare ...", file=sys.stderr)
    full_right = sum(_is_right_at_full_level(model, row) for row in rows)
    return Report(rows, full_right, _measure_switch(model, rows), _memory(model))


def _answer_all(
    model: "ElasticModel", latency: LatencyModel, asked: Sequence[DemoRequest]
) -> list[Row]:
    return [_answer(model, latency, request) for request in asked]


def _answer_live(
    model: "ElasticModel", latency: LatencyModel, asked: Sequence[DemoRequest]
) -> list[Row]:
    """As `_answer_all`, with a table that grows. It is drawn between requests only: a thread
    that draws meanwhile would slow what is being measured."""
    rows: list[Row] = []
    out = console()
    with Live(console=out, auto_refresh=False, transient=True) as live:
        for request in asked:
            rows.append(_answer(model, latency, request))
            live.update(live_view(rows, len(asked), out), refresh=True)
    return rows


def _answer(model: "ElasticModel", latency: LatencyModel, request: DemoRequest) -> Row:
    choice = choose_level(model, latency, request.messages, request.slo, MAX_ANSWER_TOKENS)
    answer = _greedy(model, request, choice.strategy.level)
    return Row(request, choice, answer)


def _greedy(model: "ElasticModel", request: DemoRequest, level: float) -> Answer:
    from pliant.engine.sampling import SamplingParams

    # The default is greedy: the same request gets the same answer.
    return stream_answer(model, request.messages, level, MAX_ANSWER_TOKENS, SamplingParams())


def _is_right_at_full_level(model: "ElasticModel", row: Row) -> bool:
    if row.answer.level == 1.0:
        return row.is_right
    return row.request.is_right(_greedy(model, row.request, 1.0).text)


def _measure_switch(model: "ElasticModel", rows: Sequence[Row]) -> float:
    """Extra TTFT of a request after another level's, as a share of the TTFT after its own.

    The same prompt again and again, so that nothing but the level before it differs.
    """
    used = sorted({row.answer.level for row in rows})
    if len(used) < 2:
        return 0.0
    other, level = used[0], used[-1]
    request = rows[0].request
    after_switch, after_same = [], []
    for _ in range(_SWITCH_REPEATS):
        _first_token(model, request, other)
        after_switch.append(_first_token(model, request, level))
        after_same.append(_first_token(model, request, level))
    return median(after_switch) / median(after_same) - 1


def _first_token(model: "ElasticModel", request: DemoRequest, level: float) -> float:
    return model.generate(list(request.messages), level=level, max_tokens=1).ttft_ms


def _memory(model: "ElasticModel") -> Memory:
    weights = model.engine.memory
    return Memory(psutil.Process().memory_info().rss, weights.mapped + weights.copied)
