"""Kinds of options that typer does not know, made into those that it knows."""

from collections.abc import Container, Mapping, Sequence
from itertools import islice
from typing import Any

from typer.core import TyperCommand

# Options that may stand alone, and what they mean then.
IMPLIED = {"--ray": "auto"}
# Options with two values that may be given several times: lists, for typer.
PAIRS = frozenset({"--marker"})


class VerbCommand(TyperCommand):
    """A verb that may have options of these kinds."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {name for param in self.params for name in param.opts}
        args = with_implied(args, {name: IMPLIED[name] for name in IMPLIED.keys() & own})
        return super().parse_args(ctx, with_pairs(args, PAIRS & own))


def with_implied(args: Sequence[str], implied: Mapping[str, str]) -> list[str]:
    """`args` with the implied value behind each option that has none."""
    completed: list[str] = []
    for argument, following in zip(args, [*args, "--"][1:], strict=True):
        completed.append(argument)
        if argument in implied and following.startswith("-"):
            completed.append(implied[argument])
    return completed


def with_pairs(args: Sequence[str], pairs: Container[str]) -> list[str]:
    """`args` with each of the two values behind an option of its own: `--marker=A --marker=B`."""
    completed: list[str] = []
    rest = iter(args)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if argument == "--":
            return [*completed, argument, *rest]
        if name not in pairs:
            completed.append(argument)
            continue
        values = [value] if equals else []
        values += islice(rest, 2 - len(values))
        completed += [f"{name}={value}" for value in values] or [name]
    return completed
