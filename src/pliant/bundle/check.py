"""Compare a bundle's files with its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pliant.bundle.bundle import Bundle, locate
from pliant.bundle.manifest import MANIFEST_FILE, FileRecord
from pliant.errors import CorruptFileError

Problem = Literal["missing", "size", "sha256", "foreign"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with `file`; `message` is a sentence for people."""

    problem: Problem
    file: str
    message: str


def check(bundle: Bundle) -> list[Finding]:
    """Read every file of the bundle and say what is wrong; nothing for a plain GGUF.

    What keeps a bundle from being opened at all (versions, levels, a damaged model) is raised
    by `open_bundle`. Raises BundleNotFoundError if a file cannot be read.
    """
    if bundle.manifest is None:
        return []
    findings = []
    for name, record in bundle.manifest.files.items():
        finding = _check_file(bundle.path, name, record)
        if finding is not None:
            findings.append(finding)
    known = {MANIFEST_FILE, *bundle.manifest.files}
    for path in sorted(bundle.path.iterdir()):
        if path.name not in known:
            findings.append(Finding("foreign", path.name, f"{path.name} is not part of the bundle"))
    return findings


def _check_file(folder: Path, name: str, expected: FileRecord) -> Finding | None:
    try:
        found = FileRecord.of(locate(folder, name))
    except CorruptFileError as error:
        return Finding("missing", name, str(error))
    if found.nbytes != expected.nbytes:
        message = f"{name} has {found.nbytes} bytes, the manifest says {expected.nbytes}"
        return Finding("size", name, message)
    if found.sha256 != expected.sha256:
        return Finding("sha256", name, f"{name} was altered: its sha256 is {found.sha256}")
    return None
