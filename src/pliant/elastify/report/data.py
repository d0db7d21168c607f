"""What the report says: the figures alone, without how they look."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pliant.elastify.report.encoding import from_json
from pliant.elastify.verify import Verification
from pliant.errors import CorruptFileError

FORMAT = "pliant-report"
VERSION = 1
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class UnitImportance:
    """What `estimator` says of the units, in the bundle's order, which is the estimator's.

    `heads` [layers][KV heads]; `neurons` [layers][bins], means over equal shares of the
    `neurons_per_layer` neurons.
    """

    estimator: str
    heads: tuple[tuple[float, ...], ...]
    neurons: tuple[tuple[float, ...], ...]
    neurons_per_layer: int


@dataclass(frozen=True)
class LayerLosses:
    """Mean next-token loss (nats) of the model without each of its layers, and the layers that
    are anchors because theirs are the highest."""

    without: tuple[float, ...]
    anchors: tuple[int, ...]


@dataclass(frozen=True)
class PlanLosses:
    """The kind of plans that was taken; mean next-token losses (nats) by kind and level name."""

    kind: str
    losses: dict[str, dict[str, float]]


@dataclass(frozen=True)
class TaskAccuracy:
    """Share of the `questions` of `task` whose right choice has the highest mean log-probability;
    `skipped` more did not fit the context. `recovered`: with the level's adapter."""

    task: str
    questions: int
    skipped: int
    bare: float
    recovered: float | None


@dataclass(frozen=True)
class LevelReport:
    """One level as the bundle has it: `plan` is, per layer, KV heads, query heads per KV head and
    neurons; perplexities are of the calibration text, run by pliant's engine, without the adapter
    and, where the level has one, with it."""

    ratio: float
    cost: float
    parameters: int
    plan: tuple[tuple[int, ...], ...]
    adapter_bytes: int | None
    bare_perplexity: float
    recovered_perplexity: float | None
    accuracy: tuple[TaskAccuracy, ...]


@dataclass(frozen=True)
class RecoveredLevelReport:
    """Losses (nats per token) on held-out examples, without the adapter and with it, and the
    training's own loss step by step. `adapter`: whether the level kept it; `gap_closed`: of the
    distance to the full model."""

    ratio: float
    adapter: bool
    bare_loss: float
    recovered_loss: float
    gap_closed: float
    training_losses: tuple[float, ...]


@dataclass(frozen=True)
class RecoveryReport:
    """How adapters were trained; `full_loss` is the full model's on the held-out examples."""

    loss: str
    rank: int
    steps: int
    full_loss: float
    levels: tuple[RecoveredLevelReport, ...]


@dataclass(frozen=True)
class StepTime:
    """How long a step took in this run; one that an earlier run had finished takes no time."""

    step: str
    seconds: float


@dataclass(frozen=True)
class Report:
    """Everything; `facts` are texts by name, `perplexity_tokens` how many tokens the perplexities
    were measured on, `notes` what the choice of levels had to say."""

    name: str
    facts: dict[str, str]
    perplexity_tokens: int
    importance: UnitImportance
    layers: LayerLosses
    plans: PlanLosses | None
    levels: tuple[LevelReport, ...]
    recovery: RecoveryReport | None
    notes: tuple[str, ...]
    verification: Verification
    times: tuple[StepTime, ...]

    def to_text(self) -> str:
        """The JSON text of `report.json`; raises ValueError for numbers that are none."""
        header = {"format": FORMAT, "version": VERSION}
        return json.dumps(header | asdict(self), ensure_ascii=False, allow_nan=False)

    @staticmethod
    def from_text(text: str, where: str = "report") -> Report:
        """Inverse of `to_text`; raises CorruptFileError, which begins with `where`."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CorruptFileError(f"{where}: not valid JSON: {error}") from error
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise CorruptFileError(f"{where}: not a report (its format is not {FORMAT!r})")
        version = value.pop("version", None)
        if type(version) is not int or version != VERSION:
            raise CorruptFileError(f"{where}: version {version!r}; this pliant reads {VERSION}")
        return from_json(Report, value, where)


def read_report(path: Path) -> Report:
    """The report in a bundle's `report.json`; raises CorruptFileError if it is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        text = data.decode("utf-8")
    except (OSError, ValueError) as error:
        raise CorruptFileError(f"cannot read {path}: {error}") from error
    return Report.from_text(text, str(path))
