"""Options of a single request, the same for every verb that takes one."""

from typing import Annotated

import typer

DEFAULT_MAX_TOKENS = 256

Ttft = Annotated[
    str | None,
    typer.Option(help="Time to first token: 0.4 or 40% of the full model's, or 400ms."),
]
Tpot = Annotated[str | None, typer.Option(help="Time per output token: 0.6, 60% or 25ms.")]
Compress = Annotated[
    str, typer.Option(help="Shorten the prompt: auto, off, or to a ratio such as 0.5 or 50%.")
]
System = Annotated[str | None, typer.Option(help="System message: what the model is for.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
