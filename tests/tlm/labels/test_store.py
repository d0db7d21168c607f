"""Label files that grow: what a killed process leaves is gone on with."""

from pathlib import Path

import pytest

from pliant.errors import LabelError
from pliant.tlm.labels.rows import ScoreRow, read_score_rows
from pliant.tlm.labels.store import RowFile

ROWS = [ScoreRow(f"text {index}", ((0, 4, 0.5),)) for index in range(4)]


def test_grows_and_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "score.jsonl"
    file = RowFile(path, {"a": 1})
    assert len(file) == 0
    file.append(ROWS[:3])
    assert len(file) == 3
    again = RowFile(path, {"a": 1})
    assert len(again) == 3
    again.append(ROWS[3:])
    assert list(read_score_rows(path)) == ROWS


@pytest.mark.parametrize("torn", [b'{"text": "text 3", "sp', b"\xc3", b"{}"])
def test_a_torn_line_is_dropped(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "score.jsonl"
    RowFile(path, {}).append(ROWS[:3])
    with path.open("ab") as file:
        file.write(torn)
    again = RowFile(path, {})
    assert len(again) == 3
    again.append(ROWS[3:])
    assert list(read_score_rows(path)) == ROWS


def test_labels_of_something_else_are_not_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "score.jsonl"
    RowFile(path, {"a": 1})
    with pytest.raises(LabelError, match=r"score\.jsonl holds labels of other tasks"):
        RowFile(path, {"a": 2})
    path.with_suffix(".json").unlink()
    with pytest.raises(LabelError, match="holds labels of other tasks"):
        RowFile(path, {"a": 1})


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LabelError, match="cannot be written"):
        RowFile(tmp_path / "file" / "score.jsonl", {})
