"""Is the elastic model still the model? Its tokens and logits, at every level, against
transformers'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pliant.bundle import Bundle, Level
from pliant.elastify.submodel import logits, slice_model
from pliant.errors import ElastifyError
from pliant.progress import Track, untracked

Logits = npt.NDArray[np.float32]

MAX_REORDER_DIFFERENCE = 1e-4
# RMS of the difference to float32 over the logits' standard deviation. What rounding the weights
# costs depends on the model; a matrix in the wrong place gives 1 or more.
MAX_RELATIVE_ERROR = {
    "F16": 0.02,
    "Q8_0": 0.2,
    "Q6_K": 0.4,
    "Q5_K": 0.6,
    "Q4_K": 0.8,
    "Q4_0": 0.8,
}
SAMPLE_TOKENS = 256
SAMPLE_LOGITS = 1 << 24


@dataclass(frozen=True)
class LevelCheck:
    """One level of the bundle run by pliant's engine, against a transformers float32 sub-model.

    Over all positions of the sample: largest absolute difference of logits, RMS difference over
    the logits' standard deviation, share of positions where both pick the same next token.
    """

    ratio: float
    max_abs_difference: float
    relative_error: float
    same_choice: float


@dataclass(frozen=True)
class Verification:
    """`reorder_difference`: largest absolute change of a float32 logit by reordering."""

    num_tokens: int
    reorder_difference: float
    levels: tuple[LevelCheck, ...]

    def lines(self) -> list[str]:
        """One sentence per level."""
        return [
            f"level {check.ratio:g}: relative error {check.relative_error:.4f}, same next token "
            f"{check.same_choice:.1%}, largest difference {check.max_abs_difference:.4f}"
            for check in self.levels
        ]


def sample_length(vocab_size: int) -> int:
    """Tokens to compare logits of; fewer where each has very many."""
    return max(32, min(SAMPLE_TOKENS, SAMPLE_LOGITS // vocab_size))


def reorder_difference(before: torch.Tensor, after: torch.Tensor) -> float:
    """Largest absolute difference; raises ElastifyError above MAX_REORDER_DIFFERENCE."""
    difference = float((before - after).abs().max())
    if not difference <= MAX_REORDER_DIFFERENCE:
        raise ElastifyError(
            f"reordering changed the model: logits differ by {difference:.2e}, at most "
            f"{MAX_REORDER_DIFFERENCE:.0e} is allowed"
        )
    return difference


def check_tokens(model_gguf: Path, tokenizer: Any, tokens: torch.Tensor) -> int:
    """Tokenizes the text of `tokens` (int64 [tokens]) line by line as pliant will, and compares.

    Returns the number of lines. Raises ElastifyError for the first line that comes out otherwise
    than in transformers.
    """
    from pliant.engine.tokenizer import Tokenizer

    text = tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    with Tokenizer(model_gguf) as exported:
        for line in lines:
            expected = tokenizer(line, add_special_tokens=False)["input_ids"]
            if exported.encode(line, add_bos=False) != expected:
                raise ElastifyError(f"the exported tokenizer splits this otherwise: {line[:80]!r}")
    return len(lines)


def expected_logits(model: Any, level: Level, tokens: torch.Tensor) -> Logits:
    """What transformers computes at `level` for `tokens` (int64 [tokens]): [tokens, vocabulary].

    `model` is the reordered model that the bundle's weights are written from.
    """
    found: Logits = logits(slice_model(model, level.plan), tokens[None])[0].numpy()
    return found


def check_plans(
    bundle: Bundle,
    levels: Sequence[Level],
    reference: Callable[[Level], Logits],
    tokens: torch.Tensor,
    quantization: str,
    track: Track = untracked,
) -> tuple[LevelCheck, ...]:
    """Runs the bundle's weights at every level on `tokens` (int64 [tokens]) and compares.

    `reference` gives `expected_logits` of a level; the model need not be in memory any more.
    Raises ElastifyError if a level is further off than its quantization explains.
    """
    from pliant.engine.engine import Engine
    from pliant.engine.options import EngineOptions
    from pliant.engine.span import Span

    span = Span(slot=0, tokens=tokens.tolist(), start=0, outputs="all")
    # The plain layout maps the file and copies nothing.
    engine = Engine(bundle, EngineOptions(slots=1, layout="plain"))
    checks = []
    try:
        for level in track(levels, "verification", len(levels)):
            found = engine.forward(level.plan, [span])
            checks.append(_compare(level.ratio, reference(level), found))
    finally:
        engine.close()
    for check in checks:
        if not check.relative_error <= MAX_RELATIVE_ERROR[quantization]:
            raise ElastifyError(
                f"level {check.ratio:g} does not compute what the original model does: "
                f"relative error {check.relative_error:.3f} of its logits"
            )
    return tuple(checks)


def _compare(ratio: float, expected: Logits, found: Logits) -> LevelCheck:
    difference = found - expected
    return LevelCheck(
        ratio=ratio,
        max_abs_difference=float(np.abs(difference).max()),
        relative_error=float(np.sqrt(np.mean(difference**2)) / expected.std()),
        same_choice=float(np.mean(found.argmax(-1) == expected.argmax(-1))),
    )
