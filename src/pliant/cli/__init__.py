"""The command line: one module per verb, each imported only when it is asked for."""

from pliant.cli.app import main

__all__ = ["main"]
