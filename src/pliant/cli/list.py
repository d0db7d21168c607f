"""`pliant list`: the bundles on this device."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from pliant.bundle.installed import InstalledBundle, installed_bundles
from pliant.cli.output import format_bytes, print_json, print_table, table, terminal_safe
from pliant.paths import home_folder


def list_bundles(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """List the bundles on this device.

    Those built into pliant, and those in the folder `bundles` of pliant's home folder
    (`pliant doctor` shows it; PLIANT_HOME moves it). Their names can be used in place of paths.
    """
    bundles = installed_bundles()
    if as_json:
        print_json({"bundles": [{**asdict(b), "path": str(b.path)} for b in bundles]})
    elif bundles:
        _print_table(bundles)
    else:
        print(f"no bundles; {home_folder() / 'bundles'} is where they go", file=sys.stderr)


def _print_table(bundles: tuple[InstalledBundle, ...]) -> None:
    rows = table("name", "origin", "path", "levels", "size", left=3)
    for bundle in bundles:
        rows.add_row(
            bundle.name,
            bundle.origin,
            escape(terminal_safe(str(bundle.path))),
            str(bundle.num_levels),
            format_bytes(bundle.nbytes),
        )
    print_table(rows)
    for bundle in bundles:
        if bundle.error:
            error = terminal_safe(bundle.error)
            print(f"{bundle.name} cannot be opened: {error}", file=sys.stderr)
