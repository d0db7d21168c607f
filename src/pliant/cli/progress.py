"""Bars with the time left, on stderr; without a terminal there nothing is shown."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pliant.progress import Track, untracked


@contextmanager
def tracking() -> Iterator[Track]:
    """A Track that shows a bar for each thing that is gone through, while that lasts."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield untracked
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield lambda items, what, total: progress.track(items, total=total, description=what)
