"""The manifest of a bundle, `pliant.json`: what the folder holds and which levels it offers."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

from pliant.bundle.plan import Level, Plan
from pliant.errors import BundleNotFoundError, CorruptFileError, PlanError, UnsupportedModelError

MANIFEST_FILE = "pliant.json"
MODEL_FILE = "model.gguf"
TLM_FILE = "tlm.gguf"
REPORT_PAGE_FILE = "report.html"
REPORT_DATA_FILE = "report.json"
FORMAT = "pliant-bundle"
VERSION = 1
MAX_BYTES = 4 << 20
MAX_LEVELS = 64

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    """Size and content of one file of the bundle."""

    nbytes: int
    sha256: str

    @staticmethod
    def of(path: Path) -> FileRecord:
        """Read the file; raises BundleNotFoundError if that fails."""
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            return FileRecord(path.stat().st_size, digest)
        except OSError as error:
            raise BundleNotFoundError(f"cannot read {path}: {error}") from error


@dataclass(frozen=True)
class Manifest:
    """`files` maps names inside the folder; `provenance` is whatever the maker recorded, and
    `tokenizer` what a reader may want to know without opening the model."""

    name: str
    files: Mapping[str, FileRecord]
    levels: tuple[Level, ...]
    tokenizer: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def to_text(self) -> str:
        """The JSON text of `pliant.json`."""
        return json.dumps(
            {
                "format": FORMAT,
                "version": VERSION,
                "name": self.name,
                "files": {
                    name: {"bytes": record.nbytes, "sha256": record.sha256}
                    for name, record in self.files.items()
                },
                "levels": [_level_to_json(level) for level in self.levels],
                "tokenizer": dict(self.tokenizer),
                "provenance": dict(self.provenance),
            },
            ensure_ascii=False,
            allow_nan=False,
        )

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Read and check the manifest alone, not the files it lists.

        Raises BundleNotFoundError if there is none, CorruptFileError if it is malformed, and
        UnsupportedModelError if it was written by a newer pliant.
        """
        path = folder / MANIFEST_FILE
        return _Parser(path).manifest(_load_json(path))


def _level_to_json(level: Level) -> dict[str, Any]:
    fields = {"ratio": level.ratio, "cost": level.cost, "plan": level.plan.to_json()}
    return fields if level.adapter is None else fields | {"adapter": level.adapter}


def is_file_name(name: str) -> bool:
    """Whether `name` may stand in a manifest: a plain name that cannot leave the folder."""
    return _FILE_NAME.fullmatch(name) is not None


def _load_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise BundleNotFoundError(f"cannot read {path}: {error}") from error
    if len(data) > MAX_BYTES:
        raise CorruptFileError(f"{path}: more than {MAX_BYTES} bytes")
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path}: not valid JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


class _Parser:
    def __init__(self, path: Path) -> None:
        self._path = path

    def fail(self, what: str) -> CorruptFileError:
        return CorruptFileError(f"{self._path}: {what}")

    def manifest(self, value: Any) -> Manifest:
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise self.fail(f"not the manifest of a bundle (its format is not {FORMAT!r})")
        version = value.get("version")
        if type(version) is not int or version < 1:
            raise self.fail(f"version is {shorten(version)}")
        if version > VERSION:
            raise UnsupportedModelError(
                f"{self._path}: bundle format {version}; this pliant reads up to {VERSION}: "
                "update pliant"
            )
        fields = self.object(
            value,
            "the manifest",
            {"format", "version", "name", "files", "levels", "tokenizer", "provenance"},
        )
        files = self.files(fields["files"])
        return Manifest(
            name=self.name(fields["name"]),
            files=files,
            levels=self.levels(fields["levels"], files),
            tokenizer=self.object(fields["tokenizer"], "tokenizer"),
            provenance=self.object(fields["provenance"], "provenance"),
        )

    def object(self, value: Any, what: str, keys: set[str] | None = None) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.fail(f"{what} is not an object")
        if keys is not None and value.keys() != keys:
            odd = ", ".join(sorted(value.keys() ^ keys))
            raise self.fail(f"{what}: unknown or missing keys: {odd[:200]}")
        return value

    def name(self, value: Any) -> str:
        if not isinstance(value, str) or not is_file_name(value):
            raise self.fail(f"{shorten(value)} is not a plain name")
        return value

    def files(self, value: Any) -> dict[str, FileRecord]:
        files = {
            self.name(name): self.record(name, record)
            for name, record in self.object(value, "files").items()
        }
        if MODEL_FILE not in files or MANIFEST_FILE in files:
            raise self.fail(f"files must list {MODEL_FILE} and not {MANIFEST_FILE}")
        return files

    def record(self, name: str, value: Any) -> FileRecord:
        fields = self.object(value, f"files: {name}", {"bytes", "sha256"})
        nbytes, sha256 = fields["bytes"], fields["sha256"]
        if type(nbytes) is not int or nbytes < 0:
            raise self.fail(f"files: {name}: bytes is {shorten(nbytes)}")
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise self.fail(f"files: {name}: sha256 is {shorten(sha256)}")
        return FileRecord(nbytes, sha256)

    def levels(self, value: Any, files: Mapping[str, FileRecord]) -> tuple[Level, ...]:
        if not isinstance(value, list) or len(value) > MAX_LEVELS:
            raise self.fail(f"levels is not a list of at most {MAX_LEVELS}")
        levels = tuple(self.level(index, item) for index, item in enumerate(value))
        for index, level in enumerate(levels):
            if level.adapter is not None and level.adapter not in files.keys() - {MODEL_FILE}:
                raise self.fail(f"levels: {index}: adapter {level.adapter} is not among the files")
        return levels

    def level(self, index: int, value: Any) -> Level:
        what = f"levels: {index}"
        keys = {"ratio", "cost", "plan"}
        if isinstance(value, dict) and "adapter" in value:
            keys.add("adapter")
        fields = self.object(value, what, keys)
        try:
            plan = Plan.from_json(fields["plan"])
        except PlanError as error:
            raise self.fail(f"{what}: {error}") from error
        ratio, cost = (self.number(fields[key], f"{what}: {key}") for key in ("ratio", "cost"))
        adapter = self.name(fields["adapter"]) if "adapter" in fields else None
        return Level(ratio=ratio, plan=plan, cost=cost, adapter=adapter)

    def number(self, value: Any, what: str) -> float:
        if type(value) not in (int, float) or not 0 < value <= 2 or not math.isfinite(value):
            raise self.fail(f"{what} is {shorten(value)}")
        return float(value)
