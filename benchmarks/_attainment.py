"""How many requests keep to their SLOs, on a machine left alone and on one that is not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle, islice
from statistics import median
from typing import Any

from _requests import Scene
from _workers import Worker, spin
from pliant.cli.demo import MAX_ANSWER_TOKENS
from pliant.cli.demo_requests import APPS
from pliant.slo import Answer, Orchestrator

WARM_UP = 12


def attainment(
    open_one: Callable[[], Orchestrator], scenes: Sequence[Scene], count: int
) -> list[dict[str, Any]]:
    """A row for an idle run of `count` requests, and one for each half of a run of as many where
    another program takes a core from the middle. Each run begins with an orchestrator that has
    learned nothing and a few requests that do not count."""
    rows = []
    with open_one() as orchestrator:
        answers = list(_answers(orchestrator, scenes, count))
        rows += [_row("idle", answers), *_errors(orchestrator, "idle")]
    with open_one() as orchestrator, ExitStack() as stack:
        answers = []
        for answer in _answers(orchestrator, scenes, count):
            answers.append(answer)
            if len(answers) == count // 2:
                stack.callback(Worker(spin).kill)
        rows.append(_row("a core taken from the middle", answers))
        rows.append(_row("first half", answers[: count // 2]))
        rows += [_row("second half", answers[count // 2 :])]
        rows += _errors(orchestrator, "a core taken from the middle")
    return rows


def _answers(orchestrator: Orchestrator, scenes: Sequence[Scene], count: int) -> Iterator[Answer]:
    for number, scene in enumerate(islice(cycle(scenes), WARM_UP + count)):
        answer = orchestrator.answer(scene.prompt(), APPS[scene.app], max_tokens=MAX_ANSWER_TOKENS)
        if number >= WARM_UP:
            print(f"\r{number - WARM_UP + 1} of {count} requests", end="", file=sys.stderr)
            yield answer
    print(file=sys.stderr)


def _row(run: str, answers: Sequence[Answer]) -> dict[str, Any]:
    """`attainment` is of the requests that were predicted to keep to their SLO, which leaves out
    those without a limit; `missed` says at which request, for the sides that were late."""
    limited = [a for a in answers if not a.decision.limits.are_none]
    feasible = [a for a in limited if a.decision.strategy.feasible]
    decide = sorted(a.decision.decide_ms for a in answers)
    read = [a.decision for a in answers if a.decision.reading is not None]
    return {
        "part": "timed",
        "run": run,
        "requests": len(answers),
        "feasible": len(feasible),
        "attainment": _share(feasible),
        "attainment_of_all": _share(answers),
        "late_ttft": sum(_is_late(a, "ttft") for a in feasible),
        "late_tpot": sum(_is_late(a, "tpot") for a in feasible),
        "decide_ms": median(decide),
        "decide_p99_ms": decide[round(0.99 * (len(decide) - 1))],
        "tlm_share": median(d.read_ms / d.limits.full_ttft_ms for d in read) if read else 0.0,
        "shortening_share": median(d.compress_ms / d.limits.full_ttft_ms for d in read)
        if read
        else 0.0,
    }


def _share(answers: Sequence[Answer]) -> float:
    return sum(a.is_slo_met for a in answers) / len(answers) if answers else 1.0


def _is_late(answer: Answer, side: str) -> bool:
    limit = getattr(answer.decision.limits, f"{side}_ms")
    measured = getattr(answer, f"{side}_ms")
    return limit is not None and measured is not None and measured > limit


def _errors(orchestrator: Orchestrator, run: str) -> Iterator[dict[str, Any]]:
    """What the latency model says of its own predictions."""
    for report in orchestrator.latency.errors():
        yield {
            "part": "errors",
            "run": run,
            "side": report.side,
            "level": report.level,
            "requests": report.count,
            "bias": report.bias,
            "error_median": report.median,
            "error_p90": report.p90,
            "error_p99": report.p99,
        }
