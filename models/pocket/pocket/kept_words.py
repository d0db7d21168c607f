"""Which words of a generated prompt its answer needs: the generator knows where the answer is."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .scene import Scene

ANSWER, BESIDE, TITLE, OTHER = 1.0, 0.7, 0.4, 0.0
"""How much to keep of the answer's own words, the rest of its line, a list's title, the rest."""

Span = tuple[int, int, float]
_WORD = re.compile(r"\S+")


def context_labels(scene: Scene) -> list[Span]:
    """(start, end, keep) of each word of the context of a scene's first question."""
    return [
        (start + found.start(), start + found.end(), _keep(scene, line, found))
        for start, line in _lines(scene.context)
        for found in _WORD.finditer(line)
    ]


def _lines(context: str) -> Iterator[tuple[int, str]]:
    start = 0
    for line in context.split("\n"):
        yield start, line
        start += len(line) + 1


def _keep(scene: Scene, line: str, word: re.Match[str]) -> float:
    if line.endswith(":"):
        return TITLE
    # A setting's answer is "name=value"; the screen shows the name.
    shown = scene.turns[0].answer.split("=")[0]
    found = re.search(rf"(?<!\w){re.escape(shown)}(?!\w)", line)
    if found is None:
        return OTHER
    return ANSWER if found.start() < word.end() and word.start() < found.end() else BESIDE
