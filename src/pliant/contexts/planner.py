"""Which missing chunks to read and which to recompute, so that a context is back soonest.

Reading and computing go on at the same time, a few layers behind each other (LLMS, section on
IO-recompute pipelined loading), or reading and decoding, a few chunks behind each other: the time
to minimise is that of a two-stage pipeline. Pure arithmetic over profiled costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pliant.contexts.storage import StorageProfile
from pliant.slo.latency import PREFILL_CHUNK, SHORT_CHUNK, LevelLatency

_MAX_STEPS = 64
# What a further step costs: handing over between threads, one more round of reads and decoding.
_STEP_MS = 0.5


@dataclass(frozen=True)
class Piece:
    """A chunk that is not in the slot: tokens `start`..`stop`.

    `read_bytes` are on disk, 0 if its compressed form is in memory, None if it is nowhere and
    must be recomputed; `decode_ms` is what decoding takes.
    """

    start: int
    stop: int
    read_bytes: int | None
    decode_ms: float = 0.0


@dataclass(frozen=True)
class StorageCost:
    """A read of n bytes takes `latency_ms + n / bytes_per_ms` milliseconds."""

    latency_ms: float
    bytes_per_ms: float

    @staticmethod
    def of(profile: StorageProfile) -> "StorageCost":
        return StorageCost(1000 * profile.latency_s, profile.bandwidth / 1000)

    def ms(self, nbytes: float, reads: float) -> float:
        return reads * self.latency_ms + nbytes / self.bytes_per_ms


@dataclass(frozen=True)
class RestorePlan:
    """`recompute[i]` says it of piece i; `steps` is into how many groups the layers are
    cut or, where nothing is computed, the chunks that are read."""

    recompute: tuple[bool, ...]
    steps: int
    predicted_ms: float


def plan_restore(
    pieces: Sequence[Piece], storage: StorageCost, compute: LevelLatency, num_layers: int
) -> RestorePlan:
    """The split and the number of pipeline steps with the least predicted time.

    Chunks go over to recomputation in the order of what reading them takes per millisecond of
    computing them, so the result is at most one chunk's cost above the best split there is. What
    is in memory is decoded.
    """
    outside = [i for i, piece in enumerate(pieces) if piece.read_bytes != 0]
    order = sorted(outside, key=lambda i: _preference(pieces[i], compute), reverse=True)
    forced = sum(piece.read_bytes is None for piece in pieces)
    totals = _Totals(pieces)
    best, best_ms = (0, 1), float("inf")
    for count in range(len(order) + 1):
        if count:
            totals.recompute(pieces[order[count - 1]])
        if count < forced:
            continue
        for steps in _step_counts(num_layers) if outside else [1]:
            ms = totals.predict_ms(steps, storage, compute)
            if ms < best_ms:
                best, best_ms = (count, steps), ms
    chosen = set(order[: best[0]])
    return RestorePlan(tuple(i in chosen for i in range(len(pieces))), best[1], best_ms)


def predict_ms(
    pieces: Sequence[Piece],
    recompute: Sequence[bool],
    steps: int,
    storage: StorageCost,
    compute: LevelLatency,
) -> float:
    """Milliseconds of a two-stage pipeline of `steps` equal steps. With something to compute it
    reads each chunk that is read once per step, else there is one read per step."""
    totals = _Totals(pieces)
    for piece, again in zip(pieces, recompute, strict=True):
        if again:
            totals.recompute(piece)
    return totals.predict_ms(steps, storage, compute)


class _Totals:
    """What is read, decoded and computed altogether; at first nothing is computed."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._read_bytes = sum(piece.read_bytes or 0 for piece in pieces)
        self._reads = sum(bool(piece.read_bytes) for piece in pieces)
        self._decode_ms = sum(p.decode_ms for p in pieces if p.read_bytes is not None)
        self._tokens = 0
        self._pairs = 0.0

    def recompute(self, piece: Piece) -> None:
        """Compute a piece instead."""
        if piece.read_bytes is not None:
            self._read_bytes -= piece.read_bytes
            self._reads -= bool(piece.read_bytes)
            self._decode_ms -= piece.decode_ms
        self._tokens += piece.stop - piece.start
        self._pairs += _pairs(piece.start, piece.stop)

    def predict_ms(self, steps: int, storage: StorageCost, compute: LevelLatency) -> float:
        reads = self._reads * steps if self._tokens else min(self._reads, steps)
        io_ms = storage.ms(self._read_bytes, reads)
        cpu_ms = self._decode_ms + _compute_ms(compute, self._tokens, self._pairs)
        pipeline_ms = (io_ms + cpu_ms + (steps - 1) * max(io_ms, cpu_ms)) / steps
        return pipeline_ms + (steps - 1) * _STEP_MS


def runs_of(pieces: Sequence[Piece], recompute: Sequence[bool]) -> list[tuple[int, int]]:
    """The stretches of tokens (start, stop) to recompute, adjacent chunks joined."""
    runs: list[tuple[int, int]] = []
    for piece, again in zip(pieces, recompute, strict=True):
        if not again:
            continue
        if runs and runs[-1][1] == piece.start:
            runs[-1] = runs[-1][0], piece.stop
        else:
            runs.append((piece.start, piece.stop))
    return runs


def recompute_ms(compute: LevelLatency, runs: Sequence[tuple[int, int]]) -> float:
    """Milliseconds to compute all runs, batched over their tokens."""
    tokens = sum(stop - start for start, stop in runs)
    return _compute_ms(compute, tokens, sum(_pairs(start, stop) for start, stop in runs))


def _pairs(start: int, stop: int) -> float:
    """Of tokens with those before them."""
    return (stop - start) * (start + stop) / 2


def _compute_ms(compute: LevelLatency, tokens: int, pairs: float) -> float:
    if tokens == 0:
        return 0.0
    cost = compute.short if tokens < SHORT_CHUNK else compute.prefill
    batches = -(-tokens // PREFILL_CHUNK)
    return batches * cost.chunk_ms + tokens * cost.token_ms + pairs * cost.pair_ms


def _preference(piece: Piece, compute: LevelLatency) -> float:
    """How much reading a millisecond of recomputing saves; what must be recomputed comes first."""
    if piece.read_bytes is None:
        return float("inf")
    cost = compute.prefill
    tokens = piece.stop - piece.start
    again_ms = tokens * (cost.token_ms + cost.pair_ms * (piece.start + piece.stop) / 2)
    return piece.read_bytes / max(again_ms - piece.decode_ms, 1e-9)


def _step_counts(num_layers: int) -> list[int]:
    """1, 2, 4, ... up to one step per layer."""
    counts = [1]
    while counts[-1] * 2 <= min(num_layers, _MAX_STEPS):
        counts.append(counts[-1] * 2)
    return counts if counts[-1] == num_layers else [*counts, min(num_layers, _MAX_STEPS)]
