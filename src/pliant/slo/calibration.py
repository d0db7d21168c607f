"""Measure what a model costs on this device. Knows nothing of files: see `store`."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from pliant.slo.fit import Sample, fit_level, interpolate
from pliant.slo.latency import PREFILL_CHUNK, LatencyModel, LevelLatency
from pliant.slo.overhead import measure_overhead
from pliant.slo.schedule import MAX_ROUNDS, Point, Schedule, make_schedule

if TYPE_CHECKING:
    from pliant.engine.model import ElasticModel

CALIBRATION_BUDGET_S = 15.0

_STEPS_PER_ROUND = 3
_PROBE_TOKENS = 16
_PROBE_S = 0.3
_MAX_PROBES = 8
# The rest is for the last pass to end in.
_SHARE_FOR_PASSES = 0.9

Clock = Callable[[], float]
Timings = dict[tuple[int, Point], list[tuple[Point, float]]]


def calibrate(
    model: "ElasticModel",
    budget_s: float = CALIBRATION_BUDGET_S,
    *,
    clock: Clock = time.perf_counter,
) -> LatencyModel:
    """Time forward passes at every level, interleaved, and fit their costs.

    Takes `budget_s` seconds at most; a big model is measured at fewer levels and shorter
    prompts, and the levels between are interpolated by their cost. `clock` gives seconds. Raises
    BusyError if every slot of the model is in use.
    """
    passes_s = budget_s * _SHARE_FOR_PASSES
    deadline = clock() + passes_s
    overhead = measure_overhead(model)
    with model.lease_slot() as slot:
        timer = _Timer(model, clock, slot)
        schedule = _plan_within(timer, passes_s)
        timings = _measure(timer, schedule, deadline)
    return LatencyModel(_fit_levels(model, schedule, timings), overhead, PREFILL_CHUNK)


@dataclass
class _Timer:
    """Times single forward passes in a slot of its own."""

    model: "ElasticModel"
    clock: Clock
    slot: int
    tokens: list[int] = field(init=False)

    def __post_init__(self) -> None:
        # Ordinary words, repeated: which tokens they are does not matter for time.
        words = self.model.tokenizer.encode("the time and the name of a place ")
        self.tokens = (words * (PREFILL_CHUNK // len(words) + 1))[:PREFILL_CHUNK]

    def seconds(self, level: int, point: Point) -> float:
        from pliant.engine.span import Span

        engine = self.model.engine
        span = Span(self.slot, self.tokens[: point.num_tokens], point.start)
        begin = self.clock()
        engine.forward(self.model.levels[level], [span])
        return self.clock() - begin

    def visit(self, level: int, point: Point, round_number: int) -> list[tuple[Point, float]]:
        """What is measured at a point in one round, with the seconds it took.

        A prompt gets another length each time: as with real prompts, its graph is a new one.
        """
        if point.is_decode:
            return [(point, self.seconds(level, point)) for _ in range(_STEPS_PER_ROUND)]
        varied = point.varied(round_number, self.model.engine.context_length)
        return [(varied, self.seconds(level, varied))]

    def probe(self, level: int, point: Point) -> float:
        """Seconds without disturbance: the least of a few, but the first, which reads weights."""
        self.seconds(level, point)
        end = self.clock() + _PROBE_S
        times = [self.seconds(level, point)]
        while len(times) < _MAX_PROBES and self.clock() < end:
            times.append(self.seconds(level, point))
        return min(times)


def _plan_within(timer: _Timer, budget_s: float) -> Schedule:
    model = timer.model
    context_length = model.engine.context_length
    full = len(model.levels) - 1
    size = min(_PROBE_TOKENS, context_length - 1)
    prefill_s, step_s = (timer.probe(full, Point(tokens, size - tokens)) for tokens in (size, 1))
    costs = [level.cost for level in model.levels]
    steps_s = _STEPS_PER_ROUND * step_s
    return make_schedule(costs, context_length, prefill_s / size, steps_s, budget_s)


def _measure(timer: _Timer, schedule: Schedule, deadline: float) -> Timings:
    """Rounds over all points and levels until the deadline; the first round is always whole."""
    timings: Timings = defaultdict(list)
    for round_number in range(MAX_ROUNDS):
        for point in schedule.points:
            for level in schedule.levels:
                if round_number > 0 and timer.clock() >= deadline:
                    return timings
                timings[level, point] += timer.visit(level, point, round_number)
    return timings


def _fit_levels(
    model: "ElasticModel", schedule: Schedule, timings: Timings
) -> tuple[LevelLatency, ...]:
    measured: dict[int, LevelLatency] = {}
    for level in schedule.levels:
        samples = [_sample(timings[level, point]) for point in schedule.points]
        measured[level] = fit_level(model.levels[level].ratio, samples)
    known = [(model.levels[index].cost, latency) for index, latency in measured.items()]
    return tuple(
        measured.get(index) or interpolate(known, level.cost, level.ratio)
        for index, level in enumerate(model.levels)
    )


def _sample(visits: list[tuple[Point, float]]) -> Sample:
    """Medians over the rounds, of the lengths as well as of the times."""
    return Sample(
        median(point.num_tokens for point, _ in visits),
        median(point.start for point, _ in visits),
        1000 * median(seconds for _, seconds in visits),
    )
