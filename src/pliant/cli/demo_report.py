"""What `pliant demo` found: its rows, its summary, its JSON and its tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pliant.cli.demo_requests import DemoRequest
from pliant.cli.output import format_bytes, table
from pliant.slo import Answer, Strategy

_COLUMNS = (
    "app", "SLO", "level", "prompt", "TTFT\nms", "\npred.", "TPOT\nms", "\npred.", "met", "right",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One request answered within its SLO, as far as possible."""

    request: DemoRequest
    answer: Answer

    @property
    def strategy(self) -> Strategy:
        return self.answer.decision.strategy

    @property
    def prompt_ratio(self) -> float:
        """What was left of the prompt."""
        return self.answer.decision.prompt_ratio

    @property
    def level(self) -> float:
        return self.answer.generation.level

    @property
    def text(self) -> str:
        return self.answer.generation.text

    @property
    def is_right(self) -> bool:
        return self.request.is_right(self.text)

    def to_json(self) -> dict[str, Any]:
        strategy, decision, slo = self.strategy, self.answer.decision, self.request.slo
        return {
            "app": self.request.app,
            "slo": {"ttft": slo.ttft, "tpot": slo.tpot},
            "level": self.level,
            "prompt_ratio": self.prompt_ratio,
            "ttft_ms": self.answer.ttft_ms,
            "tpot_ms": self.answer.tpot_ms,
            "predicted_ttft_ms": strategy.predicted_ttft_ms,
            "predicted_tpot_ms": strategy.predicted_tpot_ms,
            "limit_ttft_ms": decision.limits.ttft_ms,
            "limit_tpot_ms": decision.limits.tpot_ms,
            "slo_feasible": strategy.feasible,
            "slo_met": self.answer.is_slo_met,
            "correct": self.is_right,
            "answer": self.text,
        }


@dataclass(frozen=True)
class Memory:
    """Bytes of the process in RAM, and of the weights that all levels share."""

    rss_bytes: int
    weight_bytes: int


@dataclass(frozen=True)
class Report:
    """`full_right` is how many requests the full model answered right; `switch_overhead` the
    extra TTFT after a level switch, as a share of the TTFT without one."""

    rows: Sequence[Row]
    full_right: int
    switch_overhead: float
    memory: Memory

    @property
    def slo_attainment(self) -> float:
        return sum(row.answer.is_slo_met for row in self.rows) / len(self.rows)

    @property
    def accuracy(self) -> float:
        return sum(row.is_right for row in self.rows) / len(self.rows)

    @property
    def accuracy_full(self) -> float:
        return self.full_right / len(self.rows)

    @property
    def switches(self) -> int:
        levels = [row.level for row in self.rows]
        return sum(a != b for a, b in zip(levels, levels[1:], strict=False))

    @property
    def decide_ms(self) -> float:
        """From a request's arrival to the decision, the TLM's time included."""
        return median(row.answer.decision.decide_ms for row in self.rows)

    @property
    def prompt_ratio(self) -> float:
        return mean(row.prompt_ratio for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": [row.to_json() for row in self.rows],
            "slo_attainment": self.slo_attainment,
            "accuracy": self.accuracy,
            "accuracy_full": self.accuracy_full,
            "switches": self.switches,
            "switch_overhead": self.switch_overhead,
            "decide_ms": self.decide_ms,
            "prompt_ratio": self.prompt_ratio,
            "memory": {
                "rss_bytes": self.memory.rss_bytes,
                "weight_bytes": self.memory.weight_bytes,
            },
        }


def rows_table(rows: Sequence[Row]) -> Table:
    """Measured latencies beside predicted ones; only the answers are cut on a narrow screen."""
    made = table(*_COLUMNS, left=2)
    made.padding = (0, 1, 0, 0)
    made.add_column("answer")
    for row in rows:
        strategy, answer = row.strategy, row.answer
        made.add_row(
            row.request.app,
            str(row.request.slo),
            f"{row.level:g}",
            f"{row.prompt_ratio:.0%}",
            f"{answer.ttft_ms:.1f}",
            f"{strategy.predicted_ttft_ms:.1f}",
            "-" if answer.tpot_ms is None else f"{answer.tpot_ms:.2f}",
            f"{strategy.predicted_tpot_ms:.2f}",
            _verdict(row.answer.is_slo_met),
            _verdict(row.is_right),
            Text(_on_one_line(row.text), no_wrap=True, overflow="ellipsis"),
        )
    return made


def live_view(rows: Sequence[Row], num_requests: int, console: Console) -> RenderableType:
    """The last rows that fit the screen."""
    visible = max(1, console.height - 4)
    progress = Text(f"{len(rows)} of {num_requests} requests answered", style="dim")
    return Group(rows_table(rows[-visible:]), progress)


def summary(report: Report) -> Table:
    made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, value in _summary_lines(report):
        made.add_row(Text(name, style="bold"), Text(value))
    return made


def _summary_lines(report: Report) -> list[tuple[str, str]]:
    total = len(report.rows)
    met = sum(row.answer.is_slo_met for row in report.rows)
    right = sum(row.is_right for row in report.rows)
    lines = [
        ("SLO attainment", f"{met} of {total} requests ({report.slo_attainment:.0%})"),
        ("accuracy", f"{right} of {total} right ({report.accuracy:.0%}); the full model "
                     f"{report.full_right} ({report.accuracy_full:.0%})"),
        ("level switches", f"{report.switches}; one adds {report.switch_overhead:+.1%} to the "
                           f"TTFT, deciding takes {report.decide_ms:.2f} ms"),
        ("prompts", f"{report.prompt_ratio:.0%} of their tokens were read on average"),
        ("memory", f"{format_bytes(report.memory.rss_bytes)} resident; weights "
                   f"{format_bytes(report.memory.weight_bytes)}, shared by all levels"),
    ]  # fmt: skip
    infeasible = sum(not row.strategy.feasible for row in report.rows)
    if infeasible:
        why = "for them nothing is fast enough, the closest answered"
        lines.insert(1, ("", f"{infeasible} were not expected to be met: {why}"))
    note = "shares of what the calibrated latency model predicts for the full model; 100%: no limit"
    return [*lines, ("SLOs", note)]


def _on_one_line(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _verdict(is_good: bool) -> Text:
    return Text("yes", style="green") if is_good else Text("no", style="red")
