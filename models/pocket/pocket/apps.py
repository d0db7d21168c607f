"""Catalogue of app categories: real and invented app names and what one asks of them.

A line of ``catalogue/apps.txt`` is ``category | apps | requests``; ``*`` marks an app that
only evaluation rows show, and the last request of each line is held out.
"""

from __future__ import annotations

from dataclasses import dataclass

from .catalogue import read_catalogue


@dataclass(frozen=True)
class Category:
    """Apps that serve the same requests."""

    name: str
    apps: tuple[str, ...]
    held_out_apps: tuple[str, ...]
    requests: tuple[str, ...]
    held_out_request: str


def _parse(line: list[list[str]]) -> Category:
    name, apps, requests = line
    return Category(
        name=name[0],
        apps=tuple(a for a in apps if not a.startswith("*")),
        held_out_apps=tuple(a.lstrip("*") for a in apps if a.startswith("*")),
        requests=tuple(requests[:-1]),
        held_out_request=requests[-1],
    )


CATEGORIES = tuple(_parse(line) for line in read_catalogue("apps"))
