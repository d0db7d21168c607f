"""How verbs print: data to stdout, talk to stderr, and numbers with their units."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

# A model's text must not move the cursor or talk to the terminal.
_CONTROLS = {*range(32), *range(127, 160)} - {ord("\n"), ord("\t")}
_TERMINAL_SAFE = dict.fromkeys(_CONTROLS, "\N{REPLACEMENT CHARACTER}")

# Tables that go to a file or a pipe are not squeezed into the 80 columns of no terminal.
_PIPED_WIDTH = 200
_WHOLE_WIDTH = 10_000


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the program here."""
        raise BrokenPipeError


def console() -> Console:
    """For what a verb has to say on stdout."""
    found = _Console(soft_wrap=True)
    return found if found.is_terminal else _Console(soft_wrap=True, width=_PIPED_WIDTH)


def table(*columns: str, left: int = 1) -> Table:
    """A plain table; the first `left` columns are text, the others are aligned as numbers."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    return made


def print_table(rows: Table) -> None:
    """On stdout, with nothing cut off: a narrow terminal breaks the lines itself."""
    # Without a height, rich takes TERM=dumb for 80 columns.
    _Console(soft_wrap=True, width=_WHOLE_WIDTH, height=1).print(rows)


def print_list(columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> None:
    """As a table of plain text, of any length: rich takes a millisecond for each row of its own.

    The first `left` columns are text, the others are aligned as numbers.
    """
    rows = [columns, *rows]
    widths = [max(map(cell_len, cells)) for cells in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - cell_len(cell))
            cells.append(cell + space if index < left else space + cell)
        lines.append("  ".join(cells).rstrip())
    out = _Console(soft_wrap=True, width=_WHOLE_WIDTH, height=1)
    out.print(Text(lines[0], style="bold"))
    out.file.writelines(f"{line}\n" for line in lines[1:])


def terminal_safe(text: str) -> str:
    """`text` without control characters other than line breaks and tabs."""
    return text.translate(_TERMINAL_SAFE)


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


def format_duration(seconds: float) -> str:
    """`seconds` to two units: 40 s, 12 min 5 s, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
