"""What restoring costs on this device: profiled once when contexts are opened, then arithmetic."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from pliant.bundle import Level
from pliant.contexts.chunk import BITS, ChunkFormat
from pliant.contexts.codec import ChunkCodec
from pliant.contexts.identity import CHUNK_TOKENS
from pliant.contexts.planner import StorageCost
from pliant.contexts.storage import StorageProfile
from pliant.engine.engine import Engine
from pliant.engine.span import Span
from pliant.slo.latency import (
    PREFILL_CHUNK,
    DecodeCost,
    EncodeCost,
    LatencyModel,
    LevelLatency,
    PrefillCost,
)

_REPEATS = 5
_PROFILED_TOKENS = 512
_USUAL_BITS = 4
# Neighbours in a pack are read at once.
_CHUNKS_PER_READ = 8


@dataclass(frozen=True)
class RestoreCosts:
    """`token_ms` is the time to decode a token of a full chunk, by bits; `latency` what levels
    take to compute."""

    storage: StorageCost
    token_ms: dict[int, float]
    full_heads: int
    latency: LatencyModel

    def decode_ms(self, format_: ChunkFormat, heads: Sequence[int]) -> float:
        """Milliseconds to decode the first `heads` (per layer) heads of a chunk."""
        each_ms = sum(self.token_ms[bits] * n for bits, n in _bits_used(format_, tuple(heads)))
        return each_ms * format_.num_tokens / self.full_heads

    def compute(self, level: Level) -> LevelLatency:
        return next(found for found in self.latency.levels if found.ratio == level.ratio)

    def worth(self, engine: Engine) -> "Worth":
        return Worth(self, self.token_ms[_USUAL_BITS] / engine.kv_bytes(1))


@dataclass(frozen=True)
class Worth:
    """Milliseconds that a byte in memory saves. A `slot` saves decoding what it holds. A chunk
    saves reading it, as far as that takes longer than the decoding that goes on meanwhile: nothing
    where storage is fast."""

    costs: RestoreCosts
    slot: float

    def chunk(self, format_: ChunkFormat) -> float:
        nbytes, storage = max(1, format_.nbytes), self.costs.storage
        read_ms = storage.ms(nbytes, 1 / _CHUNKS_PER_READ)
        return max(0.0, read_ms - self.costs.decode_ms(format_, format_.kv_heads)) / nbytes


@lru_cache(maxsize=256)
def _bits_used(format_: ChunkFormat, heads: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """How many sections of the first `heads` (per layer) heads have how many bits."""
    numbers = (i for layer, count in enumerate(heads) for i in format_.numbers(layer, count))
    return tuple(Counter(format_.bits[i] for i in numbers).items())


def profile_costs(
    engine: Engine,
    codec: ChunkCodec,
    slot: int,
    storage: StorageProfile,
    latency: LatencyModel | None,
) -> RestoreCosts:
    """Decode a chunk of each size and, without a `latency` model, compute a few tokens.

    Writes into the first positions of `slot`, which nobody may use meanwhile.
    """
    if latency is None:
        latency = _quick_latency(engine, slot)
    else:
        engine.forward(engine.bundle.levels[-1], [_span(engine, slot, CHUNK_TOKENS)])
    heads = [engine.architecture.num_kv_heads] * engine.architecture.num_layers
    token_ms = {bits: _time_decoding(engine, codec, slot, heads, bits) for bits in BITS}
    engine.release_slot(slot)
    return RestoreCosts(StorageCost.of(storage), token_ms, sum(heads), latency)


def _time_decoding(
    engine: Engine, codec: ChunkCodec, slot: int, heads: Sequence[int], bits: int
) -> float:
    """Milliseconds per token, of as many chunks together as a restore has."""
    num_tokens = min(CHUNK_TOKENS, engine.context_length)
    chunk = codec.encode(slot, 0, num_tokens, heads, bits)
    starts = range(0, min(_PROFILED_TOKENS, engine.context_length) - num_tokens + 1, num_tokens)
    times = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        codec.decode(slot, [(start, chunk) for start in starts], range(len(heads)), heads)
        times.append(1000 * (time.perf_counter() - begin))
    return min(times) / (num_tokens * len(starts))


def _quick_latency(engine: Engine, slot: int) -> LatencyModel:
    """One short prompt at full size, left in the slot; other levels by their share of its cost."""
    num_tokens = min(CHUNK_TOKENS, engine.context_length)
    full = engine.bundle.levels[-1]
    times = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        engine.forward(full, [_span(engine, slot, num_tokens)])
        times.append(1000 * (time.perf_counter() - begin))
    token_ms = min(times) / num_tokens
    levels = []
    for level in engine.bundle.levels:
        cost = PrefillCost(0.0, token_ms * level.cost, 0.0)
        levels.append(LevelLatency(level.ratio, cost, cost, DecodeCost(token_ms * level.cost, 0.0)))
    return LatencyModel(tuple(levels), EncodeCost(), PREFILL_CHUNK)


def _span(engine: Engine, slot: int, num_tokens: int) -> Span:
    num_tokens = min(num_tokens, engine.context_length)
    tokens = [index % engine.architecture.vocab_size for index in range(num_tokens)]
    return Span(slot, tokens, 0, "none")
