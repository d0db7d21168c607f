"""Rotary position embeddings as config.json describes them: bases, scaling, factors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pliant.elastify.families import head_size, source_family
from pliant.errors import ElastifyError


@dataclass(frozen=True)
class RopeScaling:
    """`kind` is "linear" (only `factor` counts), "llama3" or "longrope"; contexts are in tokens.

    longrope: divisors of each rotary frequency for contexts up to the original one and for longer
    ones, and `attention_factor`, which multiplies what was rotated.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_context: int = 0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    attention_factor: float = 1.0


@dataclass(frozen=True)
class Rope:
    """`dims` of each head turn. `sliding_base`: of layers that attend to a window only."""

    base: float
    dims: int
    scaling: RopeScaling | None
    sliding_base: float | None


def read_rope(config: Any) -> Rope:
    """Raises ElastifyError for a kind of scaling that the family cannot have in llama.cpp."""
    full, sliding = _parameters(config)
    size = head_size(config)
    dims = int(size * full.get("partial_rotary_factor", 1.0))
    source = source_family(config.model_type)
    if dims != size and source.family.rope_factors != "short_long":
        raise ElastifyError(
            f"not supported in a {config.model_type} model: "
            f"partial_rotary_factor {full['partial_rotary_factor']}"
        )
    sliding_base = None
    if sliding is not None:
        _scaling(config, sliding, ("default",))
        sliding_base = _base(config, sliding)
    scaling = _scaling(config, full, source.rope_types)
    return Rope(_base(config, full), dims, scaling, sliding_base)


def llama3_factors(base: float, head_dim: int, scaling: RopeScaling) -> npt.NDArray[np.float32]:
    """Llama 3's divisor of each rotary frequency: float32 [head_dim / 2]."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    wavelengths = 2 * np.pi * base**exponents
    # 0 for waves longer than the low-frequency bound (divided), 1 for short ones (kept).
    kept = (scaling.original_context / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    kept = np.clip(kept, 0.0, 1.0)
    return (1.0 / ((1.0 - kept) / scaling.factor + kept)).astype(np.float32)


def _parameters(config: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Of ordinary layers, and of those with a window where they have their own."""
    rope = getattr(config, "rope_parameters", None)
    if rope is None:
        return _older_parameters(config)
    if "full_attention" in rope:
        return dict(rope["full_attention"]), dict(rope["sliding_attention"])
    return dict(rope), None


def _older_parameters(config: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The same from the single attributes of transformers 4."""
    rope = {"rope_theta": config.rope_theta, **(config.rope_scaling or {})}
    for name in ("partial_rotary_factor", "original_max_position_embeddings"):
        if hasattr(config, name):
            rope.setdefault(name, getattr(config, name))
    base = getattr(config, "rope_local_base_freq", None)
    return rope, None if base is None else {"rope_theta": base}


def _base(config: Any, rope: dict[str, Any]) -> float:
    base = rope.get("rope_theta")
    if not isinstance(base, int | float) or not 0 < base < math.inf:
        raise ElastifyError(f"not supported in a {config.model_type} model: rope_theta {base!r}")
    return float(base)


def _scaling(config: Any, rope: dict[str, Any], kinds: tuple[str, ...]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in kinds:
        raise ElastifyError(
            f"RoPE type {kind!r} is not supported in a {config.model_type} model "
            f"(supported: {', '.join(kinds)})"
        )
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", float(rope["factor"]))
    original = int(rope.get("original_max_position_embeddings", config.max_position_embeddings))
    if kind == "longrope":
        return _longrope(config, rope, original)
    return RopeScaling(
        kind="llama3",
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_context=original,
    )


def _longrope(config: Any, rope: dict[str, Any], original: int) -> RopeScaling:
    """LongRoPE (arXiv 2402.13753); the attention factor is its paper's unless one is given."""
    factor = float(rope.get("factor") or config.max_position_embeddings / original)
    attention = rope.get("attention_factor")
    if attention is None:
        attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return RopeScaling(
        kind="longrope",
        factor=factor,
        original_context=original,
        short_factors=tuple(map(float, rope["short_factor"])),
        long_factors=tuple(map(float, rope["long_factor"])),
        attention_factor=float(attention),
    )
