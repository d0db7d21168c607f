"""Bars with the time left, on stderr; without a terminal there nothing is shown."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
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
    with _bars(console) as progress:
        yield lambda items, what, total: progress.track(items, total=total, description=what)


@contextmanager
def steps() -> Iterator[Callable[[str, int, int, float], None]]:
    """What a training calls after each step: shows a bar for each part of it, and the loss."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda what, done, total, loss: None
        return
    with _bars(console) as progress:
        shown: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int, loss: float) -> None:
            if what not in shown:
                shown[what] = progress.add_task(what, total=total)
            text = f"{what}, loss {loss:.3f}"
            progress.update(shown[what], completed=done, description=text)

        yield report


def _bars(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)
