"""`pliant contexts`: the persistent contexts on this device. Needs no model."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from pliant.cli.output import format_bytes, print_json, print_list, terminal_safe
from pliant.contexts.journal import JOURNAL_FILE, ContextInfo, Journal
from pliant.contexts.lock import FolderLock
from pliant.contexts.store import Store
from pliant.contexts.verify import verify as verify_contexts
from pliant.errors import RequestError
from pliant.paths import contexts_folder

CHAT_APP = "chat"
_DAMAGED = 1

contexts = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="List, show, remove and verify persistent contexts.",
)

AppOption = Annotated[str, typer.Option(help="The app that the context belongs to.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
NAME = "Id or title, as `pliant contexts ls` shows it."
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help=NAME)]


@contexts.command("ls")
def list_contexts(
    app: Annotated[str | None, typer.Option(help="Only those of this app.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the contexts, last used first.

    Works while another process answers with them. They are in the folder `contexts` of pliant's
    home folder (`pliant doctor` shows it; PLIANT_HOME moves it).
    """
    found: list[ContextInfo] = []
    if (contexts_folder() / JOURNAL_FILE).exists():
        with Journal(contexts_folder(), read_only=True) as journal:
            found = journal.contexts(app)
    if as_json:
        print_json({"contexts": [asdict(info) for info in found]})
    elif found:
        _print_list(found)
    else:
        print(f"no contexts in {contexts_folder()}", file=sys.stderr)


@contexts.command()
def show(context: NameArgument, app: AppOption = CHAT_APP, as_json: JsonOption = False) -> None:
    """Show a context: what was said, in how many tokens, at which levels."""
    with Journal(contexts_folder(), read_only=True) as journal:
        info = _found(journal, context, app)
        pieces = journal.pieces(info.id)
    turns = [
        {
            "role": piece.role,
            "num_tokens": len(piece.tokens),
            "levels": sorted(set(piece.levels)),
            "messages": json.loads(piece.messages or "[]"),
        }
        for piece in pieces
    ]
    if as_json:
        print_json({**asdict(info), "pieces": turns})
        return
    _print_list([info])
    for turn in turns:
        levels = ", ".join(f"{level:g}" for level in turn["levels"])
        print(f"\n{turn['role']}: {turn['num_tokens']} tokens at level {levels}")
        for message in turn["messages"]:
            print(terminal_safe(f"  {message.get('role')}: {message.get('content')}"))


@contexts.command()
def rm(
    context: Annotated[list[str], typer.Argument(metavar="NAME...", help=NAME)],
    app: AppOption = CHAT_APP,
) -> None:
    """Remove contexts with all that is stored of them, for good."""
    with _opened() as (journal, store):
        for found in {_found(journal, name, app).id for name in context}:
            journal.delete(found)
            store.drop_context(found)
            print(f"removed {found}", file=sys.stderr)


@contexts.command()
def verify(as_json: JsonOption = False) -> None:
    """Read every token and every stored chunk and compare them with their checksums.

    Exits with 1 if something is damaged. Damaged chunks cost time, not answers: they are computed
    again. A damaged journal is data lost.
    """
    with _opened() as (journal, store):
        report = verify_contexts(journal, store)
    if as_json:
        print_json(asdict(report))
    else:
        for problem in report.problems:
            print(terminal_safe(problem))
        print(
            f"{report.num_contexts} contexts with {report.num_tokens} tokens, "
            f"{report.store.num_chunks} chunks of {format_bytes(report.store.num_bytes)}: "
            f"{len(report.problems) or 'no'} problems"
        )
    if not report.is_clean:
        raise typer.Exit(_DAMAGED)


def find_context(contexts: Sequence[ContextInfo], name: str) -> ContextInfo | None:
    """The one of this id or title. Raises RequestError if several have the title."""
    found = [info for info in contexts if info.id == name]
    found = found or [info for info in contexts if info.title == name]
    if len(found) > 1:
        ids = ", ".join(info.id for info in found)
        raise RequestError(f"{len(found)} contexts are called {name!r}: name one by its id ({ids})")
    return found[0] if found else None


def _found(journal: Journal, name: str, app: str) -> ContextInfo:
    """Raises UnknownContextError if `app` has no such context."""
    return find_context(journal.contexts(app), name) or journal.get(name, app)


@contextmanager
def _opened() -> Iterator[tuple[Journal, Store]]:
    """Journal and store for this process alone; raises ContextsInUseError."""
    folder = contexts_folder()
    with FolderLock(folder), Journal(folder) as journal, Store(folder) as store:
        yield journal, store


def _print_list(found: list[ContextInfo]) -> None:
    rows = [
        (
            info.id,
            terminal_safe(info.app),
            terminal_safe(info.title or ""),
            info.model[:12],
            datetime.fromtimestamp(info.used_s).isoformat(" ", "minutes"),
            str(info.num_tokens),
        )
        for info in found
    ]
    print_list(("id", "app", "title", "model", "used", "tokens"), rows, left=5)
