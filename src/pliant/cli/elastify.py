"""`pliant elastify`: from a Hugging Face folder to a bundle."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def elastify(
    hf_dir: Annotated[
        Path, typer.Argument(metavar="HF_DIR", help="Hugging Face folder of a Llama-type model.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; an older bundle is replaced.")],
    calibration: Annotated[
        Path,
        typer.Option(help="Text as the model will see it, or .jsonl with a `text` in each line."),
    ],
    quantization: Annotated[
        str | None, typer.Option(help="F16, Q8_0 or Q4_0.", show_default="Q8_0")
    ] = None,
    importance: Annotated[
        str | None,
        typer.Option(
            help="What orders a layer's units: activation, taylor or fisher.",
            show_default="activation",
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            help="Widths of layers: uniform, global (by what the loss pays), or the best of both.",
            show_default="best",
        ),
    ] = None,
    anchors: Annotated[
        int | None,
        typer.Option(
            help="Layers that uniform plans keep wider than the others.",
            show_default="about a fifth",
        ),
    ] = None,
    windows: Annotated[
        int | None, typer.Option(help="Pieces of the text that are used.", show_default="64")
    ] = None,
    window_tokens: Annotated[
        int | None, typer.Option(help="Tokens in each piece.", show_default="256")
    ] = None,
) -> None:
    """Make a Hugging Face model elastic and write it as a bundle.

    Needs the extra: pip install 'pliant[elastify]'. Progress goes to stderr, the path of the
    finished bundle to stdout. Every level is verified before anything is written.
    """
    from pliant.elastify import elastify as make_elastic

    given: dict[str, Any] = {
        "quantization": quantization,
        "importance": importance,
        "plan": plan,
        "anchors": anchors,
        "windows": windows,
        "window_tokens": window_tokens,
    }
    bundle = make_elastic(
        hf_dir,
        out,
        calibration=calibration,
        report=lambda line: print(line, file=sys.stderr, flush=True),
        **{name: value for name, value in given.items() if value is not None},
    )
    print(bundle.path)
