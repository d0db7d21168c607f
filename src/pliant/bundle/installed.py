"""Bundles that are installed: built into the package, or in the user's folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pliant.bundle.manifest import MANIFEST_FILE, Manifest, is_file_name
from pliant.errors import BundleError, BundleNotFoundError
from pliant.paths import home_folder

Origin = Literal["built-in", "user"]


@dataclass(frozen=True)
class InstalledBundle:
    """An entry of `pliant list`. `error` says why a damaged one cannot be opened; its
    `num_levels` and `nbytes` are then 0."""

    name: str
    path: Path
    origin: Origin
    num_levels: int
    nbytes: int
    error: str | None = None


def installed_bundles() -> tuple[InstalledBundle, ...]:
    """What is installed, built-in bundles first; reads manifests only."""
    return tuple(_describe(folder, origin) for folder, origin in _folders())


def find_installed(source: str | Path) -> Path | None:
    """The folder of the installed bundle `source`; None for a path or an unknown name."""
    if not isinstance(source, str) or not is_file_name(source):
        return None
    for folder, _origin in _folders():
        if folder.name == source:
            return folder
    return None


def _folders() -> Iterator[tuple[Path, Origin]]:
    places: tuple[tuple[Path, Origin], ...] = (
        (Path(__file__).parents[1] / "models", "built-in"),
        (home_folder() / "bundles", "user"),
    )
    for place, origin in places:
        try:
            folders = sorted(place.iterdir()) if place.is_dir() else []
            bundles = [folder for folder in folders if _is_bundle(folder)]
        except OSError as error:
            raise BundleNotFoundError(f"cannot list {place}: {error}") from error
        for folder in bundles:
            yield folder, origin


def _is_bundle(folder: Path) -> bool:
    """Whether it can be opened by its name; drafts of bundles cannot."""
    return is_file_name(folder.name) and (folder / MANIFEST_FILE).is_file()


def _describe(folder: Path, origin: Origin) -> InstalledBundle:
    try:
        manifest = Manifest.read(folder)
    except BundleError as error:
        return InstalledBundle(folder.name, folder, origin, 0, 0, str(error))
    nbytes = sum(record.nbytes for record in manifest.files.values())
    return InstalledBundle(folder.name, folder, origin, len(manifest.levels), nbytes)
