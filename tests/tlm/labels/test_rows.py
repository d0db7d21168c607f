"""Label files: what is written is read again, what is wrong is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.errors import LabelError
from pliant.tlm.labels.rows import (
    DecisionRow,
    ScoreRow,
    decision_row,
    read_decision_rows,
    read_score_rows,
    score_row,
    to_json,
    write_rows,
)

SCORE: dict[str, Any] = {"text": "ab c", "spans": [[0, 2, 1], [3, 4, 0.5]]}
DECISION: dict[str, Any] = {
    "text": "é",
    "levels": [0.5, 1.0],
    "prompt_ratios": [0.1, 0.5, 1.0],
    "right": [[0, 1, 1], [0, 0, 1]],
    "probability": [[0.25, 0.5, 1.0], [0, 0.1, 0.9]],
}


def test_files_are_read_as_written(tmp_path: Path) -> None:
    score, decision = score_row(SCORE), decision_row(DECISION)
    path = tmp_path / "rows.jsonl"
    assert write_rows(path, [score, score]) == 2
    assert list(read_score_rows(path)) == [score, score]
    write_rows(path, [decision])
    path.write_text(path.read_text() + "\n \n")
    assert list(read_decision_rows(path)) == [decision]


@given(st.text(), st.lists(st.floats(0, 1)))
def test_any_text_survives(text: str, keeps: list[float]) -> None:
    spans = tuple((i, i + 1, keep) for i, keep in zip(range(len(text)), keeps, strict=False))
    row = ScoreRow(text, spans)
    line = to_json(row)
    assert "\n" not in line
    assert score_row(json.loads(line)) == row


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "text is not a string"),
        ({"spans": [[0, 5, 1]]}, r"span \[0, 5\] is not in order within the 4 characters"),
        ({"spans": [[1, 1, 1]]}, r"span \[1, 1\]"),
        ({"spans": [[2, 3, 1], [0, 1, 1]]}, r"span \[0, 1\]"),
        ({"spans": [[0.0, 1, 1]]}, r"span \[0.0, 1\]"),
        ({"spans": [[0, 1, 1.5]]}, "keep 1.5"),
        ({"spans": [[0, 1, True]]}, "keep True"),
        ({"spans": [[0, 1]]}, "not enough values"),
        ({"spans": 3}, "not iterable"),
    ],
)
def test_wrong_score_labels(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(f"{json.dumps(SCORE)}\n{json.dumps(SCORE | change)}\n")
    with pytest.raises(LabelError, match=rf"s\.jsonl, line 2: .*{message}"):
        list(read_score_rows(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": 1}, "text is not a string"),
        ({"levels": []}, "levels .* do not ascend"),
        ({"levels": [1.0, 0.5]}, "levels .* do not ascend"),
        ({"prompt_ratios": [0.0, 0.5, 1.0]}, "prompt_ratios .* do not ascend"),
        ({"right": [[0, 1, 1]]}, "right is not a table of 2 levels by 3 prompt ratios"),
        ({"right": [[0, 1], [0, 1]]}, "right is not a table"),
        ({"right": [[0, 1, 2], [0, 0, 1]]}, "other values than 0 and 1"),
        ({"probability": [[0, 1, 2], [0, 0, 1]]}, "probability holds values"),
        ({"probability": None}, "not iterable"),
    ],
)
def test_wrong_decision_labels(tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(DECISION | change))
    with pytest.raises(LabelError, match=rf"d\.jsonl, line 1: .*{message}"):
        list(read_decision_rows(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "line 1: "),
        (b"[]", "line 1: not a JSON object"),
        (b"{}", "line 1: spans is missing"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "line 1: "),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(LabelError, match=message):
        list(read_score_rows(path))
    with pytest.raises(LabelError, match="cannot be read"):
        list(read_score_rows(tmp_path))


def test_rows_are_checked_when_made() -> None:
    with pytest.raises(LabelError):
        DecisionRow("a", (1.0,), (1.0,), ((1,),), ((float("nan"),),))
