"""`pliant compress`: shorten a text and show which words went."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from pliant.cli.output import console, print_json, terminal_safe
from pliant.cli.request_options import MAX_PIPED, check_piped
from pliant.errors import RequestError
from pliant.files import read_file
from pliant.tlm.compress import Compressed, CompressedPrompt, compress_prompt, prompt_text
from pliant.tlm.protect import Protect

_PARTS = tuple(field.name for field in fields(Protect) if field.name not in ("system", "markers"))
_DROPPED = "dim strike"


def compress(
    text: Annotated[
        str | None, typer.Argument(help="The text; - or nothing: what is piped in.")
    ] = None,
    ratio: Annotated[
        float, typer.Option(help="Share of the text's tokens to keep, above 0 and at most 1.")
    ] = 0.5,
    file: Annotated[Path | None, typer.Option(help="Read the text from this file.")] = None,
    bundle: Annotated[
        str, typer.Option(help="Whose tokens count and whose TLM scores the words.")
    ] = "pocket",
    protect: Annotated[
        str,
        typer.Option(help=f"What stays whole, with commas between: {', '.join(_PARTS)}; or none."),
    ] = ",".join(_PARTS),
    marker: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPEN CLOSE",
            help="What stands between these two stays whole; may be given several times.",
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="A system message; the text is then the user's message.")
    ] = None,
    system_too: Annotated[
        bool, typer.Option("--system-too", help="Let words of the system message go, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Shorten a text and show which words went.

    The words that the bundle's tiny language model finds least worth keeping are left out. On a
    terminal they are shown struck through; elsewhere only what remains is printed. How many
    tokens that saves goes to stderr.
    """
    import pliant

    if system_too and system is None:
        raise RequestError("--system-too is about a system message: give one with --system")
    options = _protect(protect, marker or [], keeps_system=not system_too)
    source = _source(text, file)
    done: Compressed | CompressedPrompt
    if system is None:
        original = source
        done = pliant.compress(source, ratio, model=bundle, protect=options)
    else:
        messages = [
            {"role": "system", "content": system},
            {"role": "user", "content": source},
        ]
        original = prompt_text(messages)
        with pliant.load(bundle) as model:
            done = compress_prompt(messages, ratio, model=model, protect=options)
    if as_json:
        print_json(asdict(done))
        return
    _show(original, done)
    print(
        f"{done.num_original_tokens} tokens before, {done.num_tokens} after: "
        f"ratio {done.ratio:.2f}, asked for {done.asked:g}",
        file=sys.stderr,
    )


def _protect(names: str, markers: Sequence[str], *, keeps_system: bool) -> Protect:
    chosen = {name.strip() for name in names.split(",")} - {"", "none"}
    unknown = sorted(chosen - set(_PARTS))
    if unknown:
        raise RequestError(
            f"--protect does not know {', '.join(unknown)}; it knows {', '.join(_PARTS)} and none"
        )
    if len(markers) % 2:
        raise RequestError(f"--marker takes two texts, OPEN CLOSE; {markers[-1]!r} is only one")
    pairs = tuple(zip(markers[::2], markers[1::2], strict=True))
    flags = {name: name in chosen for name in _PARTS}
    return Protect(system=keeps_system, markers=pairs, **flags)


def _source(text: str | None, file: Path | None) -> str:
    if file is not None:
        if text is not None:
            raise RequestError("give the text as an argument or as a file, not both")
        try:
            return _decoded(read_file(file))
        except OSError as error:
            raise RequestError(f"{file} cannot be read: {error.strerror}") from error
    if text not in (None, "-"):
        assert text is not None
        return text
    if text is None and sys.stdin.isatty():
        raise RequestError("no text: give one as an argument, pipe it in, or name a --file")
    data = sys.stdin.buffer.read(MAX_PIPED + 1)
    check_piped(len(data))
    return _decoded(data)


def _decoded(data: bytes) -> str:
    """Bytes that are no UTF-8 become U+FFFD."""
    return data.decode("utf-8", "replace")


def _show(original: str, done: Compressed | CompressedPrompt) -> None:
    out = console()
    if out.is_terminal and not out.no_color:
        shown = Text()
        for part, is_kept in _parts(original, done.kept):
            shown.append(terminal_safe(part), None if is_kept else _DROPPED)
        out.print(shown)
    else:
        left = done.text if isinstance(done, Compressed) else prompt_text(done.prompt)
        print(terminal_safe(left))


def _parts(original: str, kept: Sequence[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    """`original` in turns of what went and what stayed."""
    position = 0
    for start, end in [*kept, (len(original), len(original))]:
        yield original[position:start], False
        yield original[start:end], True
        position = end
