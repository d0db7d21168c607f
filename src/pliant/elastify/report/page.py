"""`report.html`: one page that needs nothing else, and runs nothing."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from pliant.elastify.report.data import RecoveredLevelReport, Report
from pliant.elastify.report.figures import pictures

_BIG = 1e5


def render_page(report: Report) -> str:
    """The HTML text; whatever the report says is escaped."""
    drawn = {name: _figure(one.svg) for name, one in pictures(report).items()}
    tasks = dict.fromkeys(task.task for level in report.levels for task in level.accuracy)
    recovered: dict[float, RecoveredLevelReport] = {}
    if report.recovery is not None:
        recovered = {level.ratio: level for level in report.recovery.levels}
    return _template().render(report=report, pictures=drawn, tasks=tasks, recovered=recovered)


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "percent": _percent, "duration": _duration}
    environment.filters["perplexity"] = lambda loss: _number(math.exp(loss))
    return environment.get_template("page.html.j2")


def _figure(svg: str) -> Markup:
    """Made by this package from numbers alone: no text from outside is in it."""
    return Markup(svg)


def _number(value: float) -> str:
    return f"{value:.3e}" if value >= _BIG else f"{value:,.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
