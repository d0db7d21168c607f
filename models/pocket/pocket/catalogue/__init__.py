"""The word and template lists of the generator, as text files beside this one.

Every line is fields cut by ``|``, every field entries cut by ``;``.
"""

from __future__ import annotations

from pathlib import Path


def read_catalogue(name: str) -> list[list[list[str]]]:
    """Lines, fields and entries of ``NAME.txt``."""
    text = (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8")
    fields = [line.split("|") for line in text.splitlines()]
    return [[[entry.strip() for entry in f.split(";")] for f in line] for line in fields]
