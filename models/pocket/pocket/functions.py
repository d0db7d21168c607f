"""Catalogue of phone functions: names, descriptions and requests, with slots in braces.

A line of ``catalogue/functions.txt`` is ``names | descriptions | requests``.  A line that
starts with ``*`` is a held-out function, seen in evaluation only; of every other line the
last request is held out.
"""

from __future__ import annotations

from dataclasses import dataclass

from .catalogue import read_catalogue


@dataclass(frozen=True)
class Function:
    """One function of the phone under all its names."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    requests: tuple[str, ...]
    held_out_request: str
    is_held_out: bool


def _parse(line: list[list[str]]) -> Function:
    names, descriptions, requests = line
    is_held_out = names[0].startswith("*")
    names[0] = names[0].lstrip("* ")
    seen = requests if is_held_out else requests[:-1]
    return Function(tuple(names), tuple(descriptions), tuple(seen), requests[-1], is_held_out)


FUNCTIONS = tuple(_parse(line) for line in read_catalogue("functions"))
