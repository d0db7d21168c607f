"""Label files: what the TLM's two heads are trained on, one JSON object a line.

Score labels say per word of a text how much it is worth keeping; decision labels say per pair of
(level, prompt ratio) whether the LLM answered right, and how sure it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pliant.errors import LabelError
from pliant.files import require_file

SCORE_FILE = "score.jsonl"
PAIR_FILE = "score-pairs.jsonl"
SCORE_FILES = (SCORE_FILE, PAIR_FILE)
DECISION_FILE = "decision.jsonl"


@dataclass(frozen=True)
class ScoreRow:
    """`spans`: (start, end, keep) of each word: characters start up to end of `text`, in order,
    not overlapping; keep from 0 (drop) to 1 (keep)."""

    text: str
    spans: tuple[tuple[int, int, float], ...]

    def __post_init__(self) -> None:
        _check(isinstance(self.text, str), "text is not a string")
        last = 0
        for start, end, keep in self.spans:
            _check(
                type(start) is int and type(end) is int and last <= start < end <= len(self.text),
                f"span [{start}, {end}] is not in order within the {len(self.text)} characters",
            )
            _check(_is_share(keep), f"keep {keep!r} of span [{start}, {end}] is not from 0 to 1")
            last = end


@dataclass(frozen=True)
class DecisionRow:
    """What each pair made of one question; row i is level i, column j is prompt ratio j.

    `text` is what the TLM reads; `levels` and `prompt_ratios` ascend; `right` holds 0 or 1,
    `probability` the LLM's share for the right choice, among the choices.
    """

    text: str
    levels: tuple[float, ...]
    prompt_ratios: tuple[float, ...]
    right: tuple[tuple[int, ...], ...]
    probability: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        _check(isinstance(self.text, str), "text is not a string")
        for name, ratios in (("levels", self.levels), ("prompt_ratios", self.prompt_ratios)):
            _check(_is_ladder(ratios), f"{name} {list(ratios)} do not ascend within (0, 1]")
        for name, table in (("right", self.right), ("probability", self.probability)):
            _check(
                len(table) == len(self.levels)
                and all(len(row) == len(self.prompt_ratios) for row in table),
                f"{name} is not a table of {len(self.levels)} levels by "
                f"{len(self.prompt_ratios)} prompt ratios",
            )
        _check(
            all(value in (0, 1) for row in self.right for value in row),
            "right holds other values than 0 and 1",
        )
        _check(
            all(_is_share(value) for row in self.probability for value in row),
            "probability holds values that are not from 0 to 1",
        )


Row = TypeVar("Row", ScoreRow, DecisionRow)


def to_json(row: ScoreRow | DecisionRow) -> str:
    """One line, without its end."""
    return json.dumps(asdict(row), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def write_rows(path: Path, rows: Iterable[ScoreRow | DecisionRow]) -> int:
    """Writes the file anew, and its folder; returns how many rows it has. Raises LabelError."""
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(to_json(row) + "\n")
                count += 1
    except OSError as error:
        raise LabelError(f"{path} cannot be written: {error.strerror}") from error
    return count


def read_score_rows(path: Path) -> Iterator[ScoreRow]:
    """Raises LabelError, naming file and line, for a line that is not a score label."""
    return read_lines(path, score_row)


def read_decision_rows(path: Path) -> Iterator[DecisionRow]:
    """Raises LabelError, naming file and line, for a line that is not a decision label."""
    return read_lines(path, decision_row)


Parsed = TypeVar("Parsed")


def read_lines(path: Path, parse: Callable[[Mapping[str, Any]], Parsed]) -> Iterator[Parsed]:
    """What `parse` makes of each JSON object of a file with one a line; blank lines are passed.

    Raises LabelError, naming file and line; `parse` may raise LabelError, KeyError, TypeError or
    ValueError for an object it cannot use.
    """
    try:
        require_file(path)
        file = path.open(encoding="utf-8")
    except OSError as error:
        raise LabelError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _parsed(path, number, line, parse)
        except UnicodeDecodeError as error:
            raise LabelError(f"{path} is not UTF-8 text: {error.reason}") from error


def score_row(found: Mapping[str, Any]) -> ScoreRow:
    spans = tuple((start, end, keep) for start, end, keep in found["spans"])
    return ScoreRow(found["text"], spans)


def decision_row(found: Mapping[str, Any]) -> DecisionRow:
    return DecisionRow(
        text=found["text"],
        levels=tuple(found["levels"]),
        prompt_ratios=tuple(found["prompt_ratios"]),
        right=tuple(tuple(row) for row in found["right"]),
        probability=tuple(tuple(row) for row in found["probability"]),
    )


def _parsed(
    path: Path, number: int, line: str, parse: Callable[[Mapping[str, Any]], Parsed]
) -> Parsed:
    try:
        found = json.loads(line)
        if not isinstance(found, dict):
            raise LabelError("not a JSON object")
        return parse(found)
    except KeyError as error:
        reason = f"{error.args[0]} is missing"
    except (json.JSONDecodeError, RecursionError) as error:
        reason = f"not valid JSON: {error}"
    except (LabelError, TypeError, ValueError) as error:
        reason = str(error)
    raise LabelError(f"{path}, line {number}: {reason}")


def _check(holds: bool, reason: str) -> None:
    if not holds:
        raise LabelError(reason)


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1


def _is_ladder(ratios: tuple[Any, ...]) -> bool:
    return (
        len(ratios) > 0
        and all(_is_share(ratio) and ratio > 0 for ratio in ratios)
        and all(low < high for low, high in zip(ratios, ratios[1:], strict=False))
    )
