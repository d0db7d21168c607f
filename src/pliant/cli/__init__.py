"""The command line: one module per verb, each imported only when it is asked for."""

from collections.abc import Sequence

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pliant argv`; returns the exit code, as `app.main` does.

    Ctrl-C is quiet from here on, also while the rest is imported.
    """
    try:
        from pliant.cli.app import main as run

        return run(argv)
    except KeyboardInterrupt:
        return INTERRUPTED
