"""`pliant export`: one level as a model of its own."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from pliant.bundle import open_bundle
from pliant.cli.output import format_bytes
from pliant.errors import RequestError


def export(
    bundle: Annotated[
        str,
        typer.Argument(metavar="BUNDLE", help="Name of an installed bundle, or a bundle's folder."),
    ],
    level: Annotated[float, typer.Option(help="The level to write, e.g. 0.5.")],
    out: Annotated[Path, typer.Option(help="The file to write; for hf, the folder.")],
    format_: Annotated[
        Literal["gguf", "hf"],
        typer.Option("--format", help="gguf, for llama.cpp and Ollama, or hf, for transformers."),
    ] = "gguf",
    quantization: Annotated[
        str | None,
        typer.Option(
            help="Type of the matrices of a GGUF: F32, F16, Q8_0, Q6_K, Q5_K, Q4_K or Q4_0.",
            show_default="as in the bundle",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="With hf: folder of the original model, whose tokenizer is copied."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Write one level as a stand-alone model for other programs.

    The level's adapter is merged into the weights. A GGUF runs in llama.cpp and Ollama. A Hugging
    Face folder loads in transformers; where the level's layers differ in size it has the full
    sizes, with zeros for dropped units: right for measuring quality, not for speed. The path of
    what was written goes to stdout.
    """
    from pliant.export import export_gguf, export_hugging_face

    opened = open_bundle(bundle)
    chosen = opened.level(level)
    if format_ == "gguf":
        if tokenizer is not None:
            raise RequestError("--tokenizer is for --format hf; a GGUF has the bundle's tokenizer")
        path = export_gguf(opened, chosen, out, quantization=quantization, force=force)
        print(f"level {chosen.ratio:g}, {format_bytes(path.stat().st_size)}", file=sys.stderr)
    else:
        if quantization is not None:
            raise RequestError("--quantization is for --format gguf; hf folders hold F16")
        path, notes = export_hugging_face(opened, chosen, out, tokenizer=tokenizer, force=force)
        for note in notes:
            print(note, file=sys.stderr)
    print(path)
