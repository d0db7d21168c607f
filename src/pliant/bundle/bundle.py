"""A bundle: one model file and what makes it elastic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from pathlib import Path
from reprlib import repr as shorten

from pliant.bundle.adapters import Adapter
from pliant.bundle.architecture import Architecture
from pliant.bundle.gguf import GgufFile
from pliant.bundle.installed import find_installed
from pliant.bundle.levels import check_levels
from pliant.bundle.manifest import MANIFEST_FILE, MODEL_FILE, TLM_FILE, FileRecord, Manifest
from pliant.bundle.plan import Level, Plan
from pliant.bundle.vocabulary import check_vocabulary
from pliant.errors import BundleNotFoundError, CorruptFileError, PlanError, UnknownLevelError

RATIO_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Bundle:
    """An opened model. `levels` ascend; the last one is 1.0, the full model.

    `adapters` are the levels' adapters by their names in the bundle.
    `path` is the folder, or the .gguf file that was opened alone; then `manifest` is None.
    """

    path: Path
    name: str
    gguf: GgufFile
    architecture: Architecture
    levels: tuple[Level, ...]
    manifest: Manifest | None = None
    adapters: Mapping[str, Adapter] = field(default_factory=dict)

    @cached_property
    def sha256(self) -> str:
        """Of the model file: as the manifest says, or computed on first use (about 1 s/GB)."""
        if self.manifest is not None:
            return self.manifest.files[MODEL_FILE].sha256
        return FileRecord.of(self.gguf.path).sha256

    @property
    def tlm_path(self) -> Path | None:
        """The bundle's tiny language model, if it has one."""
        has_tlm = self.manifest is not None and TLM_FILE in self.manifest.files
        return self.path / TLM_FILE if has_tlm else None

    def level(self, ratio: float) -> Level:
        """The level called `ratio`; raises UnknownLevelError, which lists those there are."""
        is_number = isinstance(ratio, Real) and not isinstance(ratio, bool)
        for level in self.levels:
            if is_number and abs(level.ratio - ratio) <= RATIO_TOLERANCE:
                return level
        known = ", ".join(f"{level.ratio:g}" for level in self.levels)
        asked = f"{ratio:g}" if is_number else shorten(ratio)
        raise UnknownLevelError(f"{self.name} has no level {asked}; its levels are {known}")


def open_bundle(source: str | Path) -> Bundle:
    """Open an installed bundle by name ('pocket' is built in), a folder, or a plain .gguf file.

    A bare name means an installed bundle before a file of the working directory. A plain GGUF
    has one level, 1.0. Sizes are compared with the manifest, content is not (see `check`).

    Raises BundleNotFoundError, CorruptFileError or UnsupportedModelError.
    """
    if not str(source):
        raise BundleNotFoundError("the name of the bundle is empty")
    path = find_installed(source) or Path(source)
    try:
        if path.is_dir():
            return _open_folder(path)
        if path.is_file():
            return _open_gguf(path)
    except OSError as error:
        raise BundleNotFoundError(f"cannot read {path}: {error}") from error
    raise BundleNotFoundError(
        f"{str(source)!r} is neither an installed bundle nor a folder or .gguf file; "
        "`pliant list` shows what is installed"
    )


def locate(folder: Path, name: str) -> Path:
    """A file of the bundle; raises CorruptFileError if it is absent or a link out of the folder."""
    path = folder / name
    if not path.is_file():
        raise CorruptFileError(f"{folder}: {name} is missing")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CorruptFileError(f"{folder}: {name} is a link that leads out of the bundle")
    return path


def _open_folder(folder: Path) -> Bundle:
    if not (folder / MANIFEST_FILE).exists():
        raise BundleNotFoundError(f"{folder} is not a bundle: it has no {MANIFEST_FILE}")
    locate(folder, MANIFEST_FILE)
    manifest = Manifest.read(folder)
    for name in manifest.files.keys() & {MODEL_FILE, TLM_FILE}:
        _check_size(locate(folder, name), manifest.files[name].nbytes)
    gguf, architecture = _open_model(folder / MODEL_FILE)
    names = [level.adapter for level in manifest.levels if level.adapter is not None]
    adapters = {name: Adapter.open(locate(folder, name)) for name in names}
    try:
        check_levels(architecture, manifest.levels, adapters)
    except PlanError as error:
        raise CorruptFileError(f"{folder / MANIFEST_FILE}: {error}") from error
    return Bundle(folder, manifest.name, gguf, architecture, manifest.levels, manifest, adapters)


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size
    if size != expected:
        raise CorruptFileError(f"{path} has {size} bytes, the manifest says {expected}")


def _open_gguf(path: Path) -> Bundle:
    gguf, architecture = _open_model(path)
    full = Level(ratio=1.0, plan=Plan.full(architecture), cost=1.0)
    return Bundle(path, path.stem, gguf, architecture, (full,))


def _open_model(path: Path) -> tuple[GgufFile, Architecture]:
    gguf = GgufFile.open(path)
    architecture = Architecture.from_gguf(gguf)
    check_vocabulary(gguf, architecture.vocab_size)
    return gguf, architecture
