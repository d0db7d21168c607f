"""What can be chosen for `pliant elastify`, and what the library makes of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pliant.errors import ElastifyError

if TYPE_CHECKING:
    from pliant.elastify import ElastifyOptions
    from pliant.elastify.recovery.options import Recovery

Quantization = Annotated[
    str | None, typer.Option(help="F16, Q8_0, Q6_K, Q5_K, Q4_K or Q4_0.", show_default="Q8_0")
]
Importance = Annotated[
    Literal["taylor", "fisher", "activation"] | None,
    typer.Option(help="What orders a layer's units.", show_default="taylor"),
]
PlanKind = Annotated[
    Literal["best", "uniform", "global"] | None,
    typer.Option(
        help="Widths of layers: uniform, global (by what the loss pays), or the best of both.",
        show_default="best",
    ),
]
Anchors = Annotated[
    int | None,
    typer.Option(
        help="Layers that uniform plans keep wider than the others; 0: all are alike.",
        show_default="about a fifth",
    ),
]
Windows = Annotated[
    int | None, typer.Option(help="Pieces of the text that are used.", show_default="32")
]
WindowTokens = Annotated[int | None, typer.Option(help="Tokens in each piece.", show_default="256")]
Dtype = Annotated[
    Literal["auto", "f32", "bf16"] | None,
    typer.Option(
        help="What is computed in; auto: bf16 for weights stored so, where the CPU has it.",
        show_default="auto",
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"] | None,
    typer.Option(help="What computes.", show_default="auto"),
]
Recover = Annotated[
    bool,
    typer.Option(
        "--recover",
        help="Train an adapter (LoRA) for every level below the full model, on the "
        "calibration text if there is no --recovery-data.",
    ),
]
RecoveryFile = Annotated[
    Path | None,
    typer.Option(
        help="Recover from this: .jsonl with `messages`, `prompt` and `answer`, or `text` in "
        "each line."
    ),
]
Rank = Annotated[int | None, typer.Option(help="Of the adapters.", show_default="8")]
Loss = Annotated[
    Literal["distill", "lm"] | None,
    typer.Option(
        help="distill: learn from the full model; lm: from the data alone.",
        show_default="distill",
    ),
]
RecoverySteps = Annotated[
    int | None, typer.Option(help="Training steps of each adapter.", show_default="300")
]
RecoveryRate = Annotated[
    float | None,
    typer.Option(
        help="Learning rate; lower it for thoroughly trained models.", show_default="2e-3"
    ),
]
Tasks = Annotated[
    Path | None,
    typer.Option(
        help="Questions for the report: .jsonl with `question` or `messages`, `choices` and "
        "`answer_index` in each line.",
        show_default="none",
    ),
]
RayCluster = Annotated[
    str | None,
    typer.Option(
        metavar="[ADDRESS]",
        help="Share the long work on a Ray cluster: without an address the one that `ray start "
        "--head` started here; `local` starts one for this run. Needs the extra: pip install "
        "'pliant[ray]'.",
    ),
]


def elastify_options(
    recovery_data: Path | None, training: Mapping[str, Any], **chosen: Any
) -> "ElastifyOptions":
    """The library's options with what was `chosen`, and `training` for the recovery from
    `recovery_data`; the library's defaults for what is None."""
    from pliant.elastify import ElastifyOptions

    recovery = _recovery(recovery_data, _given(training))
    return ElastifyOptions(**_given(chosen), recovery=recovery)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _recovery(data: Path | None, training: Mapping[str, Any]) -> "Recovery | None":
    if data is None:
        if training:
            raise ElastifyError(
                "--rank, --loss, --recovery-steps and --recovery-rate are about recovery: add "
                "--recover or --recovery-data FILE"
            )
        return None
    from pliant.elastify.recovery.options import Recovery, RecoveryOptions

    return Recovery(data, RecoveryOptions(**training))
