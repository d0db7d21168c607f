"""How verbs print: data to stdout, talk to stderr, and numbers with their units."""

import json
from typing import Any

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def print_json(data: Any) -> None:
    """One JSON document on stdout; plain ASCII, so that any locale can print it."""
    print(json.dumps(data, indent=2))


def format_bytes(nbytes: float) -> str:
    """`nbytes` in binary units with at most one decimal: 900 B, 1.5 GiB."""
    for unit in _UNITS[:-1]:
        if nbytes < 1024:
            break
        nbytes /= 1024
    else:
        unit = _UNITS[-1]
    return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"


def format_count(count: float) -> str:
    """`count` with a decimal suffix: 512, 12.3 K, 7.9 M, 1.2 G."""
    for suffix in ("", " K", " M"):
        if count < 1000:
            break
        count /= 1000
    else:
        suffix = " G"
    return f"{count:.0f}" if not suffix else f"{count:.1f}{suffix}"
