"""`pliant elastify`: from a Hugging Face model to a bundle."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pliant.cli.output import console, format_bytes, format_count, format_duration, table
from pliant.errors import ElastifyError

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
    quantization: Annotated[
        str | None,
        typer.Option(help="F16, Q8_0, Q6_K, Q5_K, Q4_K or Q4_0.", show_default="Q8_0"),
    ] = None,
    importance: Annotated[
        Literal["taylor", "fisher", "activation"] | None,
        typer.Option(help="What orders a layer's units.", show_default="taylor"),
    ] = None,
    plan: Annotated[
        Literal["best", "uniform", "global"] | None,
        typer.Option(
            help="Widths of layers: uniform, global (by what the loss pays), or the best of both.",
            show_default="best",
        ),
    ] = None,
    anchors: Annotated[
        int | None,
        typer.Option(
            help="Layers that uniform plans keep wider than the others; 0: all are alike.",
            show_default="about a fifth",
        ),
    ] = None,
    windows: Annotated[
        int | None, typer.Option(help="Pieces of the text that are used.", show_default="32")
    ] = None,
    window_tokens: Annotated[
        int | None, typer.Option(help="Tokens in each piece.", show_default="256")
    ] = None,
    dtype: Annotated[
        Literal["auto", "f32", "bf16"] | None,
        typer.Option(
            help="What is computed in; auto: bf16 for weights stored so, where the CPU has it.",
            show_default="auto",
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"] | None,
        typer.Option(help="What computes.", show_default="auto"),
    ] = None,
    recover: Annotated[
        bool,
        typer.Option(
            "--recover",
            help="Train an adapter (LoRA) for every level below the full model, on the "
            "calibration text if there is no --recovery-data.",
        ),
    ] = False,
    recovery_data: Annotated[
        Path | None,
        typer.Option(
            help="Recover from this: .jsonl with `messages`, `prompt` and `answer`, or `text` in "
            "each line."
        ),
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Of the adapters.", show_default="8")] = None,
    loss: Annotated[
        Literal["distill", "lm"] | None,
        typer.Option(
            help="distill: learn from the full model; lm: from the data alone.",
            show_default="distill",
        ),
    ] = None,
    recovery_steps: Annotated[
        int | None, typer.Option(help="Training steps of each adapter.", show_default="300")
    ] = None,
    recovery_rate: Annotated[
        float | None,
        typer.Option(
            help="Learning rate; lower it for thoroughly trained models.", show_default="2e-3"
        ),
    ] = None,
    tasks: Annotated[
        Path | None,
        typer.Option(
            help="Questions for the report: .jsonl with `question` or `messages`, `choices` and "
            "`answer_index` in each line.",
            show_default="none",
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Share the long work on a Ray cluster: without an address the one that `ray start "
            "--head` started here; `local` starts one for this run. Needs the extra: pip install "
            "'pliant[ray]'.",
        ),
    ] = None,
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
    from pliant.elastify import ElastifyOptions, forecast
    from pliant.elastify import elastify as make_elastic

    data = recovery_data or (calibration if recover else None)
    options = _given(
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
        recovery=_recovery(
            data,
            _given(rank=rank, loss=loss, steps=recovery_steps, learning_rate=recovery_rate),
        ),
    )
    chosen = ElastifyOptions(**options)
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


def _given(**options: Any) -> dict[str, Any]:
    """Those that were given: for the others the library has defaults."""
    return {name: value for name, value in options.items() if value is not None}


def _recovery(data: Path | None, training: Mapping[str, Any]) -> Any:
    if data is None:
        if training:
            raise ElastifyError(
                "--rank, --loss, --recovery-steps and --recovery-rate are about recovery: add "
                "--recover or --recovery-data FILE"
            )
        return None
    from pliant.elastify.recovery.options import Recovery, RecoveryOptions

    return Recovery(data, RecoveryOptions(**training))


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
