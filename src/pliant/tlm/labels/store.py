"""Files of labels that grow while they are made, so that making them can be interrupted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pliant.errors import LabelError
from pliant.tlm.labels.rows import DecisionRow, ScoreRow, to_json


class RowFile:
    """Rows in the order of what they label; `path` with `.json` beside it, which says how the
    rows are made. What lies there is gone on with, less a last line that was not finished."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Raises LabelError if other settings made the rows there, or nothing says which."""
        self._path = path
        self._count = 0
        beside = path.with_suffix(".json")
        text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._check(beside, text)
                self._count = _drop_torn_line(path)
            else:
                beside.write_text(text, encoding="utf-8")
                path.touch()
        except OSError as error:
            raise LabelError(f"{path} cannot be written: {error}") from error

    def __len__(self) -> int:
        return self._count

    def append(self, rows: Sequence[ScoreRow | DecisionRow]) -> None:
        """Add `rows`; on disk when it returns."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(to_json(row) + "\n" for row in rows)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise LabelError(f"{self._path} cannot be written: {error}") from error
        self._count += len(rows)

    def _check(self, beside: Path, text: str) -> None:
        if not beside.exists() or beside.read_text(encoding="utf-8") != text:
            raise LabelError(
                f"{self._path} holds labels of other tasks, another model or other options: give "
                "another folder, or delete the file to make them anew"
            )


def _drop_torn_line(path: Path) -> int:
    """Cut off what follows the last line break; returns the number of lines."""
    with path.open("r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        file.truncate(whole)
    return data.count(b"\n")
