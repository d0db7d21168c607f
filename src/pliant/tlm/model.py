"""The tiny language model at run time: texts in, keep probabilities and a decision out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pliant.tlm.scores import TokenScore


@dataclass(frozen=True)
class Reading:
    """What both heads say of a text under an SLO.

    `tokens` in the order of the text, empty where scores were not asked for; `prompt_ratios` and
    `levels` are probabilities, in the order of the model's.
    """

    tokens: tuple[TokenScore, ...]
    prompt_ratios: tuple[float, ...]
    levels: tuple[float, ...]


class TinyModel:
    """Reads texts with both heads; methods may be called from several threads."""

    prompt_ratios: tuple[float, ...]
    levels: tuple[float, ...]

    def __init__(
        self, path: Path, *, threads: int | None = None, model: Path | None = None
    ) -> None:
        """`model` is the GGUF whose tokenizer is shared; by default the one beside `path`.

        Raises BundleError for a file that is missing, damaged or made for another model.
        """
        raise NotImplementedError

    def read(
        self,
        text: str,
        ttft: float | None = None,
        tpot: float | None = None,
        *,
        scores: bool = True,
    ) -> Reading:
        """Both heads in one pass; without `scores` the decision alone, which costs less.

        `ttft` and `tpot` are shares (0..1] of the full model's latency, None for no limit.
        Raises SloError for others.
        """
        raise NotImplementedError

    def scores(self, texts: Sequence[str]) -> list[list[TokenScore]]:
        """The score head alone, several texts' windows together."""
        raise NotImplementedError

    def close(self) -> None:
        """Free everything. Idempotent."""

    def __enter__(self) -> TinyModel:
        return self

    def __exit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()
