"""Print docs/cli.md: every verb's help, from the commands themselves (`make docs`)."""

from collections.abc import Iterator
from typing import Any

from pliant.cli.app import VERBS, application, load_verb

HEADER = """# Commands

Written by `make docs` from the commands' own help; `pliant VERB --help` shows the same.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 `doctor` found something
missing or pliant has a bug, 2 an error that the message explains, 130 interrupted, 141 nobody
reads the output any more. `NO_COLOR` is respected.
"""


def page() -> str:
    """The whole document."""
    parts = [HEADER, *_section("pliant", application())]
    for verb in VERBS:
        command = load_verb(verb.name)
        parts += _section(f"pliant {verb.name}", command)
        for name, member in getattr(command, "commands", {}).items():
            parts += _section(f"pliant {verb.name} {name}", member, heading="###")
    return "\n".join(parts)


def _section(title: str, command: Any, heading: str = "##") -> Iterator[str]:
    shown = [param for param in command.params if not getattr(param, "hidden", False)]
    arguments = [param for param in shown if param.param_type_name == "argument"]
    options = [param for param in shown if param.param_type_name == "option"]
    is_group = hasattr(command, "commands")
    yield f"{heading} {title}\n\n{command.help}\n"
    yield f"```text\n{_usage(title, arguments, bool(options), is_group)}\n```\n"
    if arguments or options:
        yield "| | |\n| --- | --- |"
        yield "\n".join(map(_row, arguments + options)) + "\n"


def _usage(title: str, arguments: list[Any], has_options: bool, is_group: bool) -> str:
    names = [_name(a) if a.required else f"[{_name(a)}]" for a in arguments]
    verb = ["VERB ..."] if is_group else []
    return " ".join([title, *(["[OPTIONS]"] if has_options else []), *names, *verb])


def _row(param: Any) -> str:
    notes = [param.help or ""]
    if param.required and param.param_type_name == "option":
        notes.append("Required.")
    if isinstance(param.show_default, str):
        notes.append(f"Default: {param.show_default}.")
    elif not (param.default is None or param.default is False or callable(param.default)):
        notes.append(f"Default: {getattr(param.default, 'value', param.default)}.")
    if param.envvar:
        notes.append(f"Environment: `{param.envvar}`.")
    text = " ".join(note for note in notes if note).replace("|", "\\|")
    return f"| `{_name(param)}` | {text} |"


def _name(param: Any) -> str:
    if param.param_type_name == "argument":
        return str(param.metavar or param.name).upper()
    return ", ".join([*param.opts, *param.secondary_opts])


if __name__ == "__main__":
    print(page(), end="")
