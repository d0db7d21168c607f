"""Options of a single request, the same for every verb that takes one."""

from typing import Annotated

import typer

from pliant.errors import RequestError

DEFAULT_MAX_TOKENS = 256
# Far more than a prompt may have; a pipe may never end.
MAX_PIPED = 50_000_000

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


def check_piped(length: int) -> None:
    """Raises RequestError for more than MAX_PIPED characters or bytes."""
    if length > MAX_PIPED:
        raise RequestError(
            f"more than {MAX_PIPED // 10**6} million characters are piped in: give fewer"
        )
