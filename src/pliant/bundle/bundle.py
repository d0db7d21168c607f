"""A bundle: one model file and what makes it elastic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pliant.bundle.architecture import Architecture
from pliant.bundle.gguf import GgufFile
from pliant.bundle.plan import Level, Plan
from pliant.errors import UnknownLevelError

RATIO_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Bundle:
    """An opened model. `levels` ascend; the last one is 1.0, the full model."""

    path: Path
    name: str
    gguf: GgufFile
    architecture: Architecture
    levels: tuple[Level, ...]

    def level(self, ratio: float) -> Level:
        """The level called `ratio`; raises UnknownLevelError, which lists those there are."""
        for level in self.levels:
            if abs(level.ratio - ratio) <= RATIO_TOLERANCE:
                return level
        known = ", ".join(f"{level.ratio:g}" for level in self.levels)
        raise UnknownLevelError(f"{self.name} has no level {ratio:g}; its levels are {known}")


def open_bundle(source: str | Path) -> Bundle:
    """Open a plain .gguf file, which has one level, 1.0.

    Raises BundleError if it is missing, damaged or not supported.
    """
    path = Path(source)
    gguf = GgufFile.open(path)
    architecture = Architecture.from_gguf(gguf)
    full = Level(ratio=1.0, plan=Plan.full(architecture), cost=1.0)
    return Bundle(path, path.stem, gguf, architecture, (full,))
