"""How recovery trains: every number that has a default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pliant.elastify.source import Dtype
from pliant.errors import ElastifyError

Loss = Literal["distill", "lm"]


@dataclass(frozen=True)
class RecoveryOptions:
    """`steps` updates per level, each on about `batch_tokens` tokens.

    `rank` of the factors, which are scaled by `alpha / rank` (LoRA, arXiv 2106.09685, section
    4.1). `loss`: "distill" follows the full model's distribution over the next token, "lm" the
    tokens of the data. Examples keep their last `max_tokens` tokens; a token of a prompt counts
    `prompt_weight`, one of an answer 1. `fitted`: training begins at factors in closed form
    (`fitting`), where they are better than none. With `dtype` "bf16", products are computed in
    bfloat16; factors stay float32. Raises ElastifyError for a value out of its range.
    """

    rank: int = 8
    alpha: int = 16
    loss: Loss = "distill"
    steps: int = 300
    batch_tokens: int = 1024
    max_tokens: int = 512
    learning_rate: float = 2e-3
    prompt_weight: float = 0.1
    fitted: bool = True
    dtype: Dtype = "f32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("loss", get_args(Loss)), ("dtype", get_args(Dtype))):
            value = getattr(self, name)
            if value not in choices:
                known = ", ".join(choices)
                raise ElastifyError(f"recovery: {name} is {value!r}, it must be one of {known}")
        limits: Mapping[str, tuple[float, float]] = {
            "rank": (1, 256),
            "alpha": (1, 10**4),
            "steps": (1, 10**7),
            "batch_tokens": (2, 10**7),
            "max_tokens": (2, 10**6),
            "learning_rate": (1e-8, 1.0),
            "prompt_weight": (0.0, 1.0),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ElastifyError(f"recovery: {name} is {value}, it must be in {low:g}..{high:g}")

    def to_json(self) -> dict[str, Any]:
        """All fields, for provenance and for telling checkpoints apart."""
        return asdict(self)


@dataclass(frozen=True)
class Recovery:
    """What `pliant elastify` is asked to do: learn from `data` (see `read_recovery_data`)."""

    data: Path
    options: RecoveryOptions = field(default_factory=RecoveryOptions)
