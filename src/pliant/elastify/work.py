"""Finished steps of a run, kept until the run is finished: a killed one goes on from there.

A step's result lies in a file whose name holds a digest of everything the step depends on, so
what was made from other weights, texts or options is never taken for it. Files appear whole or
not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pliant.errors import BundleError
from pliant.files import replacing

Arrays = Mapping[str, npt.NDArray[Any]]


class WorkFolder:
    """`.NAME.work` beside the bundle NAME; `inputs` (JSON) are what all steps depend on."""

    def __init__(self, out: Path, inputs: Mapping[str, Any]) -> None:
        # Not the system's folder for such files: it may be small, or lie in memory.
        beside = next(folder for folder in out.parents if folder.is_dir())
        self.path = beside / f".{out.name}.work"
        self._inputs = dict(inputs)

    def file(self, name: str, inputs: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """The file that `make` writes at the path it is given, or wrote in an earlier run."""
        stem, dot, suffix = name.partition(".")
        path = self.path / f"{stem}-{_digest({**self._inputs, **inputs})}{dot}{suffix}"
        if path.exists():
            return path
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            with replacing(path) as draft:
                make(draft)
        except OSError as error:
            raise BundleError(f"cannot write in {self.path}: {error}") from error
        return path

    def arrays(self, name: str, inputs: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
        """The arrays that `make` returns, or returned in an earlier run."""
        path = self.file(f"{name}.npz", inputs, partial(_save, make))
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return {key: stored[key] for key in stored.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            path.unlink(missing_ok=True)
            raise BundleError(
                f"{path} was damaged and is removed; run the command again ({error})"
            ) from error

    def remove(self) -> None:
        """Nothing is left of the run but its result."""
        shutil.rmtree(self.path, ignore_errors=True)


def _save(make: Callable[[], Arrays], path: Path) -> None:
    np.savez(path, **make())  # type: ignore[arg-type]  # no array is called allow_pickle


def _digest(inputs: Mapping[str, Any]) -> str:
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
