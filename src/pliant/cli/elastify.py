"""`pliant elastify`: from a Hugging Face model to a bundle."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pliant.cli.output import console, format_bytes, format_count, format_duration, table

if TYPE_CHECKING:
    from pliant.elastify import Forecast


def elastify(
    model: Annotated[
        str,
        typer.Argument(metavar="HF_DIR|ORG/MODEL", help="Folder, or name on the Hugging Face hub."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; an older bundle is replaced.")],
    calibration: Annotated[
        Path,
        typer.Option(help="Text as the model will see it, or .jsonl with a `text` in each line."),
    ],
    quantization: Annotated[
        str | None,
        typer.Option(help="F16, Q8_0, Q6_K, Q5_K, Q4_K or Q4_0.", show_default="Q8_0"),
    ] = None,
    anchors: Annotated[
        int | None,
        typer.Option(help="Layers that stay wider than the others.", show_default="about a fifth"),
    ] = None,
    windows: Annotated[
        int | None, typer.Option(help="Pieces of the text that are used.", show_default="32")
    ] = None,
    window_tokens: Annotated[
        int | None, typer.Option(help="Tokens in each piece.", show_default="256")
    ] = None,
    dtype: Annotated[
        Literal["f32", "bf16"] | None,
        typer.Option(help="What is computed in.", show_default="f32"),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"] | None,
        typer.Option(help="What computes.", show_default="auto"),
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Only say what it would give and take.")
    ] = False,
) -> None:
    """Make a Hugging Face model elastic and write it as a bundle.

    ORG/MODEL is downloaded unless it is there. Needs the extra: pip install 'pliant[elastify]'.
    Progress goes to stderr, the path of the finished bundle to stdout. Every level is verified
    before the bundle is written. If it is interrupted, run it again: it goes on.
    """
    from pliant.elastify import elastify as make_elastic
    from pliant.elastify import forecast

    folder = _local(model)
    given: dict[str, Any] = {
        "quantization": quantization,
        "anchors": anchors,
        "windows": windows,
        "window_tokens": window_tokens,
        "dtype": dtype,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if plan_only:
        _print_forecast(forecast(folder, out, **given))
        return
    if device is not None:
        given["device"] = device
    from pliant.cli.progress import tracking

    try:
        with tracking() as track:
            bundle = make_elastic(
                folder, out, calibration=calibration, report=_report, track=track, **given
            )
    except KeyboardInterrupt:
        _report("interrupted; run the same command again to go on")
        raise
    print(bundle.path)


def _local(model: str) -> Path:
    """The folder of the model, which may have to be downloaded."""
    from pliant.bundle.hub import is_repository, pull_checkpoint, pulled_checkpoint

    if Path(model).exists() or not is_repository(model):
        return Path(model)
    return pulled_checkpoint(model) or pull_checkpoint(model)


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_forecast(forecast: "Forecast") -> None:
    levels = table("level", "cost", "parameters", "size", left=1)
    for level in forecast.levels:
        levels.add_row(
            f"{level.ratio:g}",
            f"{level.cost:.3f}",
            format_count(level.parameters),
            format_bytes(level.nbytes),
        )
    steps = table("step", "time")
    for name, seconds in forecast.seconds.items():
        steps.add_row(name, format_duration(seconds))
    steps.add_row("all", format_duration(sum(forecast.seconds.values())))
    for each in (levels, "", *forecast.notes, "", steps, ""):
        console().print(each)
    console().print(
        f"bundle {format_bytes(forecast.bundle_bytes)}; meanwhile about "
        f"{format_bytes(forecast.memory_bytes)} of memory and "
        f"{format_bytes(forecast.disk_bytes)} of disk beside it"
    )
