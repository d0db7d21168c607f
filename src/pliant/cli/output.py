"""How verbs print: data to stdout, talk to stderr, and numbers with their units."""

import json
from typing import Any


def print_json(data: Any) -> None:
    """One JSON document on stdout; plain ASCII, so that any locale can print it."""
    print(json.dumps(data, indent=2))


def format_bytes(nbytes: float) -> str:
    """`nbytes` in binary units: 900 B, 1.5 GiB."""
    return _scaled(nbytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def format_count(count: float) -> str:
    """`count` in thousands, millions, ...: 512, 12.3 K, 7.9 M."""
    return _scaled(count, 1000, ("", "K", "M", "G", "T")).rstrip()


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    power = 0
    while round(value, 1) >= step and power < len(units) - 1:
        value /= step
        power += 1
    return f"{value:.{1 if power else 0}f} {units[power]}"
