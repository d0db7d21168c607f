"""Dispatch to the verbs, and turn errors into one line and an exit code.

Knows each verb's name and one line of help, nothing of what it does: a verb's module, and with
it ggml or torch, is imported when the verb is run or its own help is asked for.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pliant._version import __version__
from pliant.errors import PliantError

INTERRUPTED = 130
BUG = 1


@dataclass(frozen=True)
class Verb:
    """`help` is the first line of the docstring of `function` in `pliant.cli.<name>`."""

    name: str
    function: str
    help: str


VERBS = (
    Verb("demo", "demo", "Answer requests of six apps, each within its own latency SLO."),
    Verb("run", "run", "Chat with a model, or answer one prompt."),
    Verb("show", "show", "Show a bundle: its architecture, levels, costs and files."),
    Verb("list", "list_bundles", "List the bundles on this device."),
    Verb("elastify", "elastify", "Make a Hugging Face model elastic and write it as a bundle."),
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pliant argv`; returns the exit code (0, 1 a bug, 2 an error, 130 interrupted)."""
    settings = Settings()
    try:
        return _flushed(_run(sys.argv[1:] if argv is None else argv, settings))
    except BrokenPipeError:
        _discard_output()
        return BUG
    except KeyboardInterrupt:
        return INTERRUPTED
    except PliantError as error:
        if settings.debug:
            raise
        from pliant.cli.output import terminal_safe

        # It may quote a file that was not made to be read by people.
        print(terminal_safe(f"error: {error}"), file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if settings.debug:
            raise
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        print(f"bug in pliant: {what} (pliant --debug ... shows where)", file=sys.stderr)
        return BUG


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
    module = importlib.import_module(f"pliant.cli.{verb.name}")
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(verb.name)(getattr(module, verb.function))
    return typer.main.get_command(app)


def _flushed(code: int) -> int:
    sys.stdout.flush()
    return code


def _discard_output() -> None:
    """Keep the interpreter from reporting the broken pipe again when it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
