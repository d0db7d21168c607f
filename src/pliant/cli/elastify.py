"""`pliant elastify`: from a Hugging Face model to a bundle."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pliant.cli import elastify_options as options
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
        typer.Option(
            help="Text as the model will see it, or .jsonl with `messages`, `prompt` and `answer`, "
            "or `text` in each line."
        ),
    ],
    quantization: options.Quantization = None,
    importance: options.Importance = None,
    plan: options.PlanKind = None,
    anchors: options.Anchors = None,
    windows: options.Windows = None,
    window_tokens: options.WindowTokens = None,
    dtype: options.Dtype = None,
    device: options.Device = None,
    recover: options.Recover = False,
    recovery_data: options.RecoveryFile = None,
    rank: options.Rank = None,
    loss: options.Loss = None,
    recovery_steps: options.RecoverySteps = None,
    recovery_rate: options.RecoveryRate = None,
    tasks: options.Tasks = None,
    ray: options.RayCluster = None,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Only say what it would give and take.")
    ] = False,
) -> None:
    """Make a Hugging Face model elastic and write it as a bundle.

    ORG/MODEL is downloaded unless it is there. Needs the extra: pip install 'pliant[elastify]'.
    Progress goes to stderr, the path of the finished bundle to stdout. Every level is verified
    before the bundle is written. If it is interrupted, run it again: it goes on. The bundle's
    report.html shows what was measured and chosen.
    """
    from pliant.elastify import elastify as make_elastic
    from pliant.elastify import forecast

    chosen = options.elastify_options(
        recovery_data or (calibration if recover else None),
        {"rank": rank, "loss": loss, "steps": recovery_steps, "learning_rate": recovery_rate},
        quantization=quantization,
        importance=importance,
        plan=plan,
        anchors=anchors,
        windows=windows,
        window_tokens=window_tokens,
        dtype=dtype,
        device=device,
        tasks=tasks,
        ray=ray,
    )
    folder = _local(model)
    if plan_only:
        _print_forecast(forecast(folder, out, chosen))
        return
    from pliant.cli.progress import tracking

    try:
        with tracking() as track:
            bundle = make_elastic(
                folder, out, calibration=calibration, options=chosen, report=_report, track=track
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
