"""A machine whose requests take the calibrated time, times what a test says, with noise."""

import random
from dataclasses import dataclass, field

from pliant.slo.online import OnlineLatency
from support.synthetic_latency import RATIOS, make_latency

TOKENS = 200


@dataclass
class Machine:
    """`slowness` is shared by all levels, `bias` a factor per level; a share `outlier_rate` of
    the requests takes three times as long."""

    seed: int
    slowness: float = 1.0
    noise: float = 0.04
    outlier_rate: float = 0.0
    bias: dict[float, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.online = OnlineLatency(make_latency())

    def true_factor(self, level: float) -> float:
        return self.slowness * self.bias.get(level, 1.0)

    def request(self, level: float | None = None) -> tuple[float, float]:
        """Run one at `level`, or any; returns measured over predicted time, and the margin that
        the prediction had."""
        level = level or self.random.choice(RATIOS)
        calibrated_ms = self.online.base.predict_ttft(level, TOKENS)
        predicted_ms = self.online.predict_ttft(level, TOKENS)
        margin = self.online.margins.ttft
        noise = self.random.lognormvariate(0, self.noise)
        if self.random.random() < self.outlier_rate:
            noise *= 3
        measured_ms = calibrated_ms * self.true_factor(level) * noise
        self.online.observe_ttft(level, calibrated_ms, measured_ms)
        return measured_ms / predicted_ms, margin

    def run(self, count: int) -> list[tuple[float, float]]:
        return [self.request() for _ in range(count)]

    def worst_error(self) -> float:
        """Of the factors that the online model has now, over the levels."""
        factors = ((self.online.ttft_factor(r), self.true_factor(r)) for r in RATIOS)
        return max(abs(learned / true - 1) for learned, true in factors)
