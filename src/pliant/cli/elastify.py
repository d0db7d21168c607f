"""`pliant elastify`: from a Hugging Face folder to a bundle."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pliant.errors import ElastifyError


def elastify(
    hf_dir: Annotated[Path, typer.Argument(metavar="HF_DIR", help="Hugging Face model folder.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; an older bundle is replaced.")],
    calibration: Annotated[
        Path,
        typer.Option(help="Text as the model will see it, or .jsonl with a `text` in each line."),
    ],
    quantization: Annotated[
        str | None, typer.Option(help="F16, Q8_0 or Q4_0.", show_default="Q8_0")
    ] = None,
    anchors: Annotated[
        int | None,
        typer.Option(help="Layers that stay wider than the others.", show_default="about a fifth"),
    ] = None,
    windows: Annotated[
        int | None, typer.Option(help="Pieces of the text that are used.", show_default="64")
    ] = None,
    window_tokens: Annotated[
        int | None, typer.Option(help="Tokens in each piece.", show_default="256")
    ] = None,
    recover: Annotated[
        bool | None,
        typer.Option(
            "--recover/--no-recover",
            help="Train an adapter (LoRA) for every level below the full model.",
            show_default="if --recovery-data is given",
        ),
    ] = None,
    recovery_data: Annotated[
        Path | None,
        typer.Option(
            help="What adapters learn from: .jsonl with `messages`, `prompt` and `answer`, or "
            "`text` in each line.",
            show_default="the calibration text",
        ),
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Of the adapters.", show_default="8")] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="distill: learn from the full model; lm: from the data alone.",
            show_default="distill",
        ),
    ] = None,
    recovery_steps: Annotated[
        int | None, typer.Option(help="Training steps of each adapter.", show_default="300")
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
            metavar="ADDRESS",
            help="Share the long work on a Ray cluster; `auto` is the one that `ray start --head` "
            "started here. Needs the extra: pip install 'pliant[ray]'.",
        ),
    ] = None,
) -> None:
    """Make a Hugging Face model elastic and write it as a bundle.

    Needs the extra: pip install 'pliant[elastify]'. Progress goes to stderr, the path of the
    finished bundle to stdout. Every level is verified before anything is written. The bundle's
    report.html shows what was measured and chosen.
    """
    from pliant.elastify import elastify as make_elastic

    given: dict[str, Any] = {
        "quantization": quantization,
        "anchors": anchors,
        "windows": windows,
        "window_tokens": window_tokens,
        "tasks": tasks,
        "ray": ray,
    }
    training = {"rank": rank, "loss": loss, "steps": recovery_steps}
    if recovery_data is not None if recover is None else recover:
        given["recovery"] = _recovery(recovery_data or calibration, training)
    elif any(value is not None for value in training.values()):
        raise ElastifyError(
            "--rank, --loss and --recovery-steps are about recovery: add --recover or "
            "--recovery-data FILE"
        )
    bundle = make_elastic(
        hf_dir,
        out,
        calibration=calibration,
        report=lambda line: print(line, file=sys.stderr, flush=True),
        **{name: value for name, value in given.items() if value is not None},
    )
    print(bundle.path)


def _recovery(data: Path, training: Mapping[str, Any]) -> Any:
    from pliant.elastify.recovery.options import Recovery, RecoveryOptions

    given = {name: value for name, value in training.items() if value is not None}
    return Recovery(data, RecoveryOptions(**given))
