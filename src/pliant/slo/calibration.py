"""Measure what a model costs on this device. Knows nothing of files: see `store`."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from pliant.errors import TemplateError
from pliant.slo.fit import Sample, fit_level, interpolate
from pliant.slo.latency import PREFILL_CHUNK, LatencyModel, LevelLatency, Overhead
from pliant.slo.schedule import Point, Schedule, make_schedule
from pliant.slo.strategy import mean_kv

if TYPE_CHECKING:
    from pliant.engine.model import ElasticModel, Prompt

CALIBRATION_BUDGET_S = 15.0

_MAX_ROUNDS = 9
_STEPS_PER_ROUND = 3
_PROBE_TOKENS = 16
_PROBE_S = 0.3
_MAX_PROBES = 8
_OVERHEAD_REPEATS = 5
_OVERHEAD_ANSWER_TOKENS = 8
# Share of the budget for forward passes; the rest is for what a request costs around them.
_FORWARD_SHARE = 0.75

Clock = Callable[[], float]
Timings = dict[tuple[int, Point], list[float]]


def calibrate(
    model: "ElasticModel",
    budget_s: float = CALIBRATION_BUDGET_S,
    *,
    clock: Clock = time.perf_counter,
) -> LatencyModel:
    """Time forward passes at every level, interleaved, and fit their costs.

    Takes about `budget_s` seconds at most; a big model is measured at fewer levels and shorter
    prompts, and the levels between are interpolated by their cost. `clock` gives seconds.
    """
    begin = clock()
    forward_s = budget_s * _FORWARD_SHARE
    timer = _Timer(model, clock)
    schedule = _plan_within(timer, forward_s)
    timings = _measure(timer, schedule, begin + forward_s)
    levels = _fit_levels(model, schedule, timings)
    bare = LatencyModel(levels, Overhead(), PREFILL_CHUNK)
    overhead = _measure_overhead(model, bare, schedule, clock, begin + budget_s)
    return LatencyModel(levels, overhead, PREFILL_CHUNK)


@dataclass
class _Timer:
    """Times single forward passes in the model's last slot."""

    model: "ElasticModel"
    clock: Clock
    tokens: list[int] = field(init=False)

    def __post_init__(self) -> None:
        # Ordinary words, repeated: which tokens they are does not matter for time.
        words = self.model.tokenizer.encode("the time and the name of a place ")
        self.tokens = (words * (PREFILL_CHUNK // len(words) + 1))[:PREFILL_CHUNK]

    def seconds(self, level: int, point: Point) -> float:
        from pliant.engine.span import Span

        engine = self.model.engine
        plan = self.model.levels[level].plan
        span = Span(engine.num_slots - 1, self.tokens[: point.num_tokens], point.start)
        begin = self.clock()
        engine.forward(plan, [span])
        return self.clock() - begin

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
    for round_number in range(_MAX_ROUNDS):
        for point in schedule.points:
            for level in schedule.levels:
                if round_number > 0 and timer.clock() >= deadline:
                    return timings
                repeats = _STEPS_PER_ROUND if point.is_decode else 1
                timings[level, point] += [timer.seconds(level, point) for _ in range(repeats)]
    return timings


def _fit_levels(
    model: "ElasticModel", schedule: Schedule, timings: Timings
) -> tuple[LevelLatency, ...]:
    measured: dict[int, LevelLatency] = {}
    for level in schedule.levels:
        samples = [
            Sample(point.num_tokens, point.start, 1000 * median(timings[level, point]))
            for point in schedule.points
        ]
        measured[level] = fit_level(model.levels[level].ratio, samples)
    known = [(model.levels[index].cost, latency) for index, latency in measured.items()]
    return tuple(
        measured.get(index) or interpolate(known, level.cost, level.ratio)
        for index, level in enumerate(model.levels)
    )


def _measure_overhead(
    model: "ElasticModel", bare: LatencyModel, schedule: Schedule, clock: Clock, deadline: float
) -> Overhead:
    """What requests take beyond their forward passes, for a short and for a longer prompt."""
    counts = (2, max(4, schedule.num_tokens // 8))
    short, long = (_Beyond.measure(model, bare, count, clock, deadline) for count in counts)
    per_token = max(0.0, (long.ttft_ms - short.ttft_ms) / (long.tokens - short.tokens))
    return Overhead(
        request_ms=max(0.0, short.ttft_ms - per_token * short.tokens),
        prompt_token_ms=per_token,
        step_ms=max(0.0, median((short.tpot_ms, long.tpot_ms))),
    )


@dataclass(frozen=True)
class _Beyond:
    """Measured latencies of a request less those predicted for its forward passes."""

    tokens: float
    ttft_ms: float
    tpot_ms: float

    @classmethod
    def measure(
        cls, model: "ElasticModel", bare: LatencyModel, count: int, clock: Clock, deadline: float
    ) -> "_Beyond":
        """Medians of a few requests at the cheapest level, at least one.

        Each prompt is a little longer than the one before: a length that was not seen before
        needs a graph of its own, as real prompts do.
        """
        level = model.levels[0].ratio
        tokens: list[int] = []
        ttfts: list[float] = []
        tpots: list[float] = []
        while not ttfts or (len(ttfts) < _OVERHEAD_REPEATS and clock() < deadline):
            prompt = _request(model, "and so on " * (count + len(ttfts)))
            answer = model.generate(prompt, level=level, max_tokens=_OVERHEAD_ANSWER_TOKENS)
            tokens.append(answer.prompt_tokens)
            ttfts.append(answer.ttft_ms - bare.predict_ttft(level, answer.prompt_tokens))
            if answer.tpot_ms is not None:
                kv_tokens = mean_kv(answer.prompt_tokens, len(answer.tokens))
                tpots.append(answer.tpot_ms - bare.predict_tpot(level, kv_tokens))
        return cls(median(tokens), median(ttfts), median(tpots or [0.0]))


def _request(model: "ElasticModel", text: str) -> "Prompt":
    """A chat message where the model has a template for them, else the bare text."""
    messages = [{"role": "user", "content": text}]
    try:
        model.encode_prompt(messages)
    except TemplateError:
        return text
    return messages
