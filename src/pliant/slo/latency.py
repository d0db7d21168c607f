"""`LatencyModel`: what prefill and decode cost at each level on one device.

Pure arithmetic over fitted coefficients; measuring is `calibration`, choosing is `strategy`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, TypeVar

from pliant.errors import CorruptFileError, UnknownLevelError

PREFILL_CHUNK = 512
"""Tokens that one forward pass of a prefill takes at most."""

SHORT_CHUNK = 64
"""Below this many tokens ggml's attention goes token by token: other costs, fitted apart."""

FORMAT_VERSION = 4
RATIO_TOLERANCE = 1e-6

_PASSES = ("encoding", "reading", "compressing")

# Above any real coefficient (milliseconds); what exceeds it is a damaged file.
_MAX_COEFFICIENT_MS = 1e7


@dataclass(frozen=True)
class PrefillCost:
    """A chunk of n tokens behind `start` KV entries takes
    `chunk_ms + token_ms * n + pair_ms * n * (start + n / 2)` milliseconds."""

    chunk_ms: float
    token_ms: float
    pair_ms: float

    def ms(self, num_tokens: int, start: int) -> float:
        pairs = num_tokens * (start + num_tokens / 2)
        return self.chunk_ms + self.token_ms * num_tokens + self.pair_ms * pairs


@dataclass(frozen=True)
class DecodeCost:
    """A step over `kv` KV entries takes `step_ms + kv_ms * kv` milliseconds."""

    step_ms: float
    kv_ms: float

    def ms(self, kv_tokens: int) -> float:
        return self.step_ms + self.kv_ms * kv_tokens


@dataclass(frozen=True)
class LevelLatency:
    """Fitted costs of one level; `short` is the prefill of fewer than SHORT_CHUNK tokens."""

    ratio: float
    prefill: PrefillCost
    short: PrefillCost
    decode: DecodeCost

    def prefill_ms(self, num_tokens: int, start: int) -> float:
        """Milliseconds for one chunk."""
        cost = self.short if num_tokens < SHORT_CHUNK else self.prefill
        return cost.ms(num_tokens, start)


@dataclass(frozen=True)
class EncodeCost:
    """What a pass over the prompt takes, in milliseconds: per request and per prompt token."""

    request_ms: float = 0.0
    token_ms: float = 0.0

    def ms(self, num_tokens: int) -> float:
        return self.request_ms + self.token_ms * num_tokens


Coefficients = TypeVar("Coefficients", PrefillCost, DecodeCost, EncodeCost)


@dataclass(frozen=True)
class LatencyModel:
    """Predicts TTFT and TPOT of every level; `levels` ascend by ratio.

    `encoding` is what template and tokenizer take, `reading` the TLM's pass with both heads and
    `compressing` choosing a prompt's words by its scores; both are 0 without a TLM.
    """

    levels: tuple[LevelLatency, ...]
    encoding: EncodeCost
    prefill_chunk: int
    reading: EncodeCost = EncodeCost()
    compressing: EncodeCost = EncodeCost()

    def predict_ttft(self, level_ratio: float, prompt_tokens: int, start: int = 0) -> float:
        """Milliseconds to the first token of a prompt whose first token is at position `start`.

        Raises UnknownLevelError if this level was not measured.
        """
        level = self._level(level_ratio)
        end = start + prompt_tokens
        ttft_ms = self.encoding.ms(prompt_tokens)
        for at in range(start, end, self.prefill_chunk):
            ttft_ms += level.prefill_ms(min(self.prefill_chunk, end - at), at)
        return ttft_ms

    def predict_tpot(self, level_ratio: float, kv_tokens: int) -> float:
        """Milliseconds per generated token with `kv_tokens` in the context.

        Raises UnknownLevelError if this level was not measured.
        """
        return self._level(level_ratio).decode.ms(kv_tokens)

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(level.ratio for level in self.levels)

    @cached_property
    def _by_ratio(self) -> dict[float, LevelLatency]:
        return {level.ratio: level for level in self.levels}

    def _level(self, ratio: float) -> LevelLatency:
        found = self._by_ratio.get(ratio)
        if found is not None:
            return found
        for level in self.levels:
            if abs(level.ratio - ratio) <= RATIO_TOLERANCE:
                return level
        known = ", ".join(f"{r:g}" for r in self.ratios)
        raise UnknownLevelError(f"level {ratio:g} was not measured on this device; known: {known}")

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready mapping; the exact inverse of `from_json`."""
        return {"version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, document: object) -> "LatencyModel":
        """Read what `to_json` wrote. Raises CorruptFileError for anything else."""
        data = _mapping(document, {"version", *(field.name for field in fields(cls))})
        if data["version"] != FORMAT_VERSION or isinstance(data["version"], bool):
            raise CorruptFileError(f"latency model: version {data['version']!r} is not supported")
        chunk = data["prefill_chunk"]
        if not isinstance(chunk, int) or isinstance(chunk, bool) or not 0 < chunk <= 1 << 20:
            raise CorruptFileError(f"latency model: prefill_chunk is {chunk!r}")
        rows = data["levels"]
        if not isinstance(rows, list | tuple) or not rows:
            raise CorruptFileError("latency model: levels must be a list with at least one entry")
        levels = tuple(_read_level(row) for row in rows)
        _check_ratios([level.ratio for level in levels])
        passes = {name: _read(data[name], EncodeCost) for name in _PASSES}
        return cls(levels, prefill_chunk=chunk, **passes)


def _read_level(document: object) -> LevelLatency:
    data = _mapping(document, {"ratio", "prefill", "short", "decode"})
    level = LevelLatency(
        _number("ratio", data["ratio"]),
        _read(data["prefill"], PrefillCost),
        _read(data["short"], PrefillCost),
        _read(data["decode"], DecodeCost),
    )
    if min(level.prefill.ms(1, 1), level.short.ms(1, 1), level.decode.ms(1)) <= 0:
        raise CorruptFileError(f"latency model: level {level.ratio} takes no time")
    return level


def _mapping(document: object, keys: set[str]) -> Mapping[str, Any]:
    if not isinstance(document, dict) or set(document) != keys:
        raise CorruptFileError(f"latency model: expected an object with {', '.join(sorted(keys))}")
    return document


def _read(document: object, kind: type[Coefficients]) -> Coefficients:
    data = _mapping(document, {field.name for field in fields(kind)})
    return kind(**{key: _number(key, value) for key, value in data.items()})


def _number(key: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CorruptFileError(f"latency model: {key} is {value!r}, not a number")
    if not 0 <= value <= _MAX_COEFFICIENT_MS:
        raise CorruptFileError(f"latency model: {key} is {value!r}")
    return float(value)


def _check_ratios(ratios: Sequence[float]) -> None:
    ascending = all(a < b for a, b in zip(ratios, ratios[1:], strict=False))
    if not ascending or ratios[0] <= 0 or ratios[-1] != 1.0:
        raise CorruptFileError(f"latency model: levels {list(ratios)} must ascend and end at 1.0")
