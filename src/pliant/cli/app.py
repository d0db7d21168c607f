"""Dispatch to the verbs, and turn errors into one line and an exit code.

Knows each verb's name and one line of help, nothing of what it does: a verb's module, and with
it ggml or torch, is imported when the verb is run or its own help is asked for.
"""

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pliant._version import __version__
from pliant.cli.arguments import VerbCommand
from pliant.errors import PliantError

BUG = 1
REFUSED = 2
PIPE_CLOSED = 141


@dataclass(frozen=True)
class Verb:
    """`help` is the first line of the docstring of `function` in `pliant.cli.<name>`, or the help
    of the group of commands that it is."""

    name: str
    function: str
    help: str


VERBS = (
    Verb("demo", "demo", "Answer requests of six apps, each within its own latency SLO."),
    Verb("run", "run", "Chat with a model, or answer one prompt."),
    Verb("compress", "compress", "Shorten a text and show which words went."),
    Verb(
        "explain", "explain", "Show what an SLO gets: the level, how much of the prompt, and why."
    ),
    Verb("show", "show", "Show a bundle: its architecture, levels, costs and files."),
    Verb("list", "list_bundles", "List the bundles on this device."),
    Verb("pull", "pull", "Download a model from the Hugging Face hub."),
    Verb("elastify", "elastify", "Make a Hugging Face model elastic and write it as a bundle."),
    Verb("tlm", "tlm", "Make labels for a bundle's TLM, train it, evaluate it."),
    Verb("contexts", "contexts", "List, show, remove and verify persistent contexts."),
    Verb("export", "export", "Write one level as a stand-alone model for other programs."),
    Verb("doctor", "doctor", "Check that pliant can run here, and say how to mend what is not."),
)


@dataclass
class Settings:
    """What the global options say; filled in by the callback."""

    debug: bool = False


class LazyGroup(TyperGroup):
    """A group whose commands are stubs until one is resolved from the arguments."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_verb(str(name)) if command else None, rest

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _ended_by_closed_pipe():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _ended_by_closed_pipe():
            return super().invoke(ctx)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pliant argv`; returns the exit code (0, 1 a bug, 2 an error, 141 a closed pipe).

    Lets KeyboardInterrupt through.
    """
    settings = Settings()
    try:
        _check_streams()
        return _flushed(_run(sys.argv[1:] if argv is None else argv, settings))
    except Exception as error:
        if settings.debug and not isinstance(error, BrokenPipeError):
            raise
        return _explained(error)


def _explained(error: Exception) -> int:
    """Say on stderr what went wrong; returns the exit code."""
    if isinstance(error, PliantError):
        _complain(f"error: {error}")
        return error.exit_code
    if isinstance(error, OSError):
        # What was not written fails again when the interpreter exits.
        _discard_output()
        if isinstance(error, BrokenPipeError):
            return PIPE_CLOSED
        _complain(f"error: the system refused: {error}")
        return REFUSED
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    _complain(f"bug in pliant: {what} (pliant --debug ... shows where)")
    return BUG


def _complain(text: str) -> None:
    """One line, as far as stderr takes it; it may quote a file that was not made for people."""
    from pliant.cli.output import terminal_safe

    with contextlib.suppress(OSError):
        print(terminal_safe(text), file=sys.stderr, flush=True)


def _check_streams() -> None:
    """Python has None for a stream that was closed before it started.

    A character that stdout cannot show becomes a question mark.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = sys.stderr
        raise PliantError("there is no stdout to write to")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _run(argv: Sequence[str], settings: Settings) -> int:
    try:
        application().main(args=list(argv), prog_name="pliant", obj=settings)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def application() -> Any:
    """The group of all verbs, each a stub with its help until it is resolved."""
    app = typer.Typer(
        cls=LazyGroup,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help="One LLM, every latency: an elastic language model on this device.",
    )
    app.callback()(_options)
    for verb in VERBS:
        app.command(verb.name, help=verb.help)(_stub)
    return typer.main.get_command(app)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"pliant {__version__}")
        raise typer.Exit


def _options(
    context: typer.Context,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="PLIANT_DEBUG", help="Show the traceback of an error."),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    context.obj.debug = debug


def _stub() -> None:
    """Stands for a verb whose module is not imported yet."""


def load_verb(name: str) -> Any:
    """The command called `name`, with its options; imports its module."""
    verb = next(verb for verb in VERBS if verb.name == name)
    function = getattr(importlib.import_module(f"pliant.cli.{verb.name}"), verb.function)
    if isinstance(function, typer.Typer):
        return typer.main.get_command(function)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(verb.name, cls=VerbCommand)(function)
    return typer.main.get_command(app)


@contextlib.contextmanager
def _ended_by_closed_pipe() -> Iterator[None]:
    """typer would take a closed pipe for a failure."""
    try:
        yield
    except BrokenPipeError:
        raise SystemExit(PIPE_CLOSED) from None


def _flushed(code: int) -> int:
    sys.stdout.flush()
    return code


def _discard_output() -> None:
    """Keep the interpreter from reporting what cannot be written again when it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(null, stream.fileno())
    os.close(null)
