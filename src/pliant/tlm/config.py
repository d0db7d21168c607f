"""The shape of a tiny language model: what network, file and run time agree on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from pliant.errors import BundleError

Activation = Literal["gelu", "relu"]
TokenizerKind = Literal["wordpiece", "bundle"]

PROMPT_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# [CLS] and [SEP] frame every window.
FRAME = 2
# Rows of a matrix are whole blocks of Q8_0.
_BLOCK = 32
_LIMITS = {
    "hidden_size": (_BLOCK, 4096),
    "ff": (_BLOCK, 16384),
    "num_heads": (1, 128),
    "trunk_layers": (1, 64),
    "score_layers": (1, 64),
    "decision_layers": (1, 64),
    "window": (FRAME + 1, 8192),
    "vocab_size": (FRAME + 1, 1 << 20),
}
_MAX_RATIOS = 64


@dataclass(frozen=True)
class TlmConfig:
    """Sizes of a dual-head encoder in BERT's layout (post-norm, learned positions, token pieces).

    `window` counts the tokens that are read together, [CLS] and [SEP] included; `vocab_size` the
    rows of the embedding table, `cls_token` and `sep_token` among them. `prompt_ratios` and
    `levels` ascend. Raises BundleError for a shape that cannot be run.
    """

    hidden_size: int
    ff: int
    num_heads: int
    trunk_layers: int
    score_layers: int
    decision_layers: int
    window: int
    vocab_size: int
    cls_token: int
    sep_token: int
    levels: tuple[float, ...]
    prompt_ratios: tuple[float, ...] = PROMPT_RATIOS
    activation: Activation = "gelu"
    norm_eps: float = 1e-12
    tokenizer: TokenizerKind = "bundle"

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            _check(type(value) is int and low <= value <= high, name, value, f"{low}..{high}")
        for name in ("hidden_size", "ff"):
            value = getattr(self, name)
            _check(value % _BLOCK == 0, name, value, f"a multiple of {_BLOCK}")
        _check(
            self.hidden_size % self.num_heads == 0,
            "num_heads",
            self.num_heads,
            f"a divisor of {self.hidden_size}",
        )
        for name in ("cls_token", "sep_token"):
            value = getattr(self, name)
            inside = type(value) is int and 0 <= value < self.vocab_size
            _check(inside, name, value, f"0..{self.vocab_size - 1}")
        for name in ("prompt_ratios", "levels"):
            _check(_is_ladder(getattr(self, name)), name, getattr(self, name), "ascending to 1.0")
        for name, choices in (("activation", Activation), ("tokenizer", TokenizerKind)):
            known = get_args(choices)
            _check(getattr(self, name) in known, name, getattr(self, name), " or ".join(known))
        _check(0 < self.norm_eps < 1, "norm_eps", self.norm_eps, "between 0 and 1")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def room(self) -> int:
        """Tokens of the text in a window."""
        return self.window - FRAME


def _check(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise BundleError(f"tiny language model: {name} is {value!r}; it must be {allowed}")


def _is_ladder(ratios: tuple[float, ...]) -> bool:
    return (
        0 < len(ratios) <= _MAX_RATIOS
        and all(type(ratio) is float and math.isfinite(ratio) and ratio > 0 for ratio in ratios)
        and all(low < high for low, high in zip(ratios, ratios[1:], strict=False))
        and ratios[-1] == 1.0
    )
