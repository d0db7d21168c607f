"""A model whose forward passes take synthetic time on a settable clock."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from pliant.bundle.plan import LayerPlan, Level, Plan
from pliant.slo import DecodeCost, EncodeCost, LatencyModel, LevelLatency, PrefillCost

RATIOS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def make_level(ratio: float) -> Level:
    return Level(ratio, Plan((LayerPlan(8, 1, round(ratio * 32) * 32),)), cost=ratio)


def make_latency(ratios: Sequence[float] = RATIOS, slowness: float = 1.0) -> LatencyModel:
    """Costs in proportion to the level; 0.1 ms per prompt token at full level, or times more."""
    levels = tuple(
        LevelLatency(
            ratio,
            PrefillCost(r * 0.5, r * 0.1, r * 1e-5),
            PrefillCost(r * 0.25, r * 0.2, r * 2e-5),
            DecodeCost(r * 2.0, r * 1e-3),
        )
        for ratio, r in ((ratio, ratio * slowness) for ratio in ratios)
    )
    return LatencyModel(levels, EncodeCost(0.25, 0.001), 512)


def flat_level(ratio: float, token_ms: float, step_ms: float) -> LevelLatency:
    """Costs that do not depend on the length of the context."""
    prefill = PrefillCost(0.0, token_ms, 0.0)
    return LevelLatency(ratio, prefill, prefill, DecodeCost(step_ms, 0.0))


@dataclass
class FakeEngine:
    """Advances `now` by what `truth` says a forward pass takes, times `slowness`."""

    truth: LatencyModel
    levels: Sequence[Level]
    context_length: int = 1024
    num_slots: int = 4
    slowness: float = 1.0
    now: float = 0.0
    calls: list[tuple[float, int, int]] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def forward(self, asked: Level, spans: Sequence[Any]) -> None:
        (span,) = spans
        assert span.start + len(span.tokens) <= self.context_length
        assert 0 <= span.slot < self.num_slots
        level = next(level for level in self.truth.levels if level.ratio == asked.ratio)
        count = len(span.tokens)
        self.calls.append((level.ratio, count, span.start))
        time_ms = level.decode.ms(span.start) if count == 1 else level.prefill_ms(count, span.start)
        self.now += time_ms * self.slowness / 1000


@dataclass
class FakeModel:
    """What calibration uses of an ElasticModel."""

    engine: FakeEngine
    levels: tuple[Level, ...]
    bundle: Any = field(default_factory=lambda: SimpleNamespace(sha256="ab" * 32))
    tokenizer: Any = field(
        default_factory=lambda: SimpleNamespace(
            encode=lambda text: list(text.encode()), size=256, eog=(), piece=lambda token: b"x"
        )
    )

    @contextmanager
    def lease_slot(self) -> Iterator[int]:
        yield self.engine.num_slots - 1


def make_model() -> FakeModel:
    levels = tuple(make_level(ratio) for ratio in RATIOS)
    return FakeModel(FakeEngine(make_latency(), levels), levels)
