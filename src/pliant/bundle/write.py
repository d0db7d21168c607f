"""Write a bundle: all of it, or nothing."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pliant.bundle.adapters import Adapter
from pliant.bundle.architecture import Architecture
from pliant.bundle.bundle import Bundle, open_bundle
from pliant.bundle.gguf import GgufFile
from pliant.bundle.levels import check_levels
from pliant.bundle.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    REPORT_DATA_FILE,
    REPORT_PAGE_FILE,
    TLM_FILE,
    FileRecord,
    Manifest,
    is_file_name,
)
from pliant.bundle.plan import Level
from pliant.bundle.vocabulary import check_vocabulary, describe_tokenizer
from pliant.errors import BundleError

# A report that says how the bundle was made may lie in it.
REPORT_FILES = {REPORT_PAGE_FILE, REPORT_DATA_FILE}
_NOT_ADAPTERS = {MODEL_FILE, MANIFEST_FILE, TLM_FILE, *REPORT_FILES}


def write_bundle(
    folder: str | Path,
    model_gguf: str | Path,
    levels: Sequence[Level],
    provenance: Mapping[str, Any],
    adapters: Mapping[str, str | Path] = MappingProxyType({}),
    report: Mapping[str, str | Path] = MappingProxyType({}),
) -> Bundle:
    """Copy `model_gguf` into a bundle at `folder` and return the opened bundle.

    The folder's name becomes the bundle's. `provenance` must be JSON. `adapters` says for every
    adapter that a level names which file to copy, `report` the same for REPORT_FILES. Everything
    is written to a folder beside the target and renamed at the end; an older bundle there is
    replaced, with its TLM.

    Raises PlanError if the levels break the rules (`levels.check_levels`), and BundleError if
    the model or an adapter cannot be read, adapters are missing or superfluous, the target holds
    anything but a bundle, or writing fails.
    """
    folder = Path(folder).absolute()
    gguf = GgufFile.open(model_gguf)
    architecture = Architecture.from_gguf(gguf)
    check_vocabulary(gguf, architecture.vocab_size)
    check_levels(architecture, levels, _open_adapters(levels, adapters))
    if not report.keys() <= REPORT_FILES:
        raise BundleError(f"a report is {' and '.join(sorted(REPORT_FILES))}, nothing else")
    with _draft_of(folder) as draft:
        sources = {MODEL_FILE: gguf.path, **adapters, **report}
        files = {name: _copy(Path(source), draft / name) for name, source in sources.items()}
        manifest = Manifest(
            name=folder.name,
            files=files,
            levels=tuple(levels),
            tokenizer=describe_tokenizer(gguf),
            provenance=provenance,
        )
        _write_text(draft / MANIFEST_FILE, manifest.to_text())
    return open_bundle(folder)


def put_tlm(folder: str | Path, tlm_gguf: str | Path) -> Bundle:
    """Copy `tlm_gguf` into the bundle at `folder`, in the place of an older one; returns it opened.

    As with `write_bundle` the folder is replaced as a whole; its other files are linked, not
    copied. What is in the file is not looked at (`pliant.tlm.install_tlm` does). Raises
    BundleError if the bundle cannot be opened or written.
    """
    folder = Path(folder).absolute()
    old = open_bundle(folder)
    if old.manifest is None:
        raise BundleError(f"{folder} is a single file; a tiny language model needs a bundle")
    with _draft_of(folder) as draft:
        for name in old.manifest.files.keys() - {TLM_FILE}:
            _link(folder / name, draft / name)
        record = _copy(Path(tlm_gguf), draft / TLM_FILE)
        manifest = replace(old.manifest, files={**old.manifest.files, TLM_FILE: record})
        _write_text(draft / MANIFEST_FILE, manifest.to_text())
    return open_bundle(folder)


def refuse_foreign(folder: Path) -> None:
    """Raise BundleError unless a bundle can be written at `folder`, an absolute path.

    Its name must be one for a bundle, and nothing but a bundle's own files may be replaced.
    """
    if not is_file_name(folder.name):
        raise BundleError(f"{folder.name!r} cannot name a bundle: use letters, digits, . _ -")
    try:
        beside = next(parent for parent in folder.parents if parent.exists())
        if not beside.is_dir() or not os.access(beside, os.W_OK):
            raise BundleError(f"{folder} cannot be made: {beside} is not a folder to write in")
        _refuse_foreign_files(folder)
    except OSError as error:
        raise BundleError(f"cannot look into {folder}: {error}") from error


def _refuse_foreign_files(folder: Path) -> None:
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        raise BundleError(f"{folder} exists and is not a folder")
    present = {entry.name for entry in folder.iterdir()}
    if not present:
        return
    if MANIFEST_FILE not in present:
        raise BundleError(f"{folder} is not empty and not a bundle; choose another folder")
    foreign = present - Manifest.read(folder).files.keys() - {MANIFEST_FILE}
    if foreign:
        raise BundleError(f"{folder} also holds {', '.join(sorted(foreign))}; move it away first")


def _open_adapters(
    levels: Sequence[Level], adapters: Mapping[str, str | Path]
) -> dict[str, Adapter]:
    named = {level.adapter for level in levels} - {None}
    if named != adapters.keys():
        odd = ", ".join(sorted(map(str, named ^ adapters.keys())))
        raise BundleError(f"adapters that are not both named by a level and given: {odd}")
    for name in adapters:
        if not is_file_name(name) or name in _NOT_ADAPTERS:
            raise BundleError(f"{name!r} cannot name an adapter")
    return {name: Adapter.open(path) for name, path in adapters.items()}


@contextmanager
def _draft_of(folder: Path) -> Iterator[Path]:
    """Gives a new folder beside `folder` to put a bundle's files in; at the end, if they are a
    sound bundle, it takes the place of `folder`."""
    refuse_foreign(folder)
    draft = _beside(folder, "new")
    try:
        draft.mkdir(parents=True)
        yield draft
        open_bundle(draft)
        _replace(folder, draft)
    except (OSError, TypeError, ValueError) as error:
        raise BundleError(f"cannot write the bundle {folder}: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _beside(folder: Path, purpose: str) -> Path:
    return folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.{purpose}")


def _copy(source: Path, target: Path) -> FileRecord:
    shutil.copyfile(source, target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    return FileRecord.of(target)


def _link(source: Path, target: Path) -> None:
    """A second name of the same content, or a copy where the file system has no such thing."""
    try:
        target.hardlink_to(source)
    except OSError:
        _copy(source, target)


def _write_text(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _replace(folder: Path, draft: Path) -> None:
    """Put `draft` in the place of `folder`; if that fails, the old folder is back.

    On disk before it returns: what the folders list, like the files before.
    """
    _sync_folder(draft)
    if not folder.exists():
        draft.rename(folder)
        _sync_folder(folder.parent)
        return
    old = _beside(folder, "old")
    folder.rename(old)
    try:
        draft.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    _sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows syncs files only
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
