"""Measure what a model costs on this device. Knows nothing of files: see `store`."""

import time
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

from pliant.slo.encoding import measure_compressing, measure_encoding, measure_reading
from pliant.slo.fit import Sample, fit_level, interpolate
from pliant.slo.latency import PREFILL_CHUNK, EncodeCost, LatencyModel, LevelLatency
from pliant.slo.reader import Reader
from pliant.slo.rehearsal import Clock, Rehearsal, Visit
from pliant.slo.schedule import MAX_ROUNDS, Point, Schedule, make_schedule

if TYPE_CHECKING:
    from pliant.engine.model import ElasticModel

CALIBRATION_BUDGET_S = 15.0

_PROBE_TOKENS = 16
_PROBE_S = 0.3
_MAX_PROBES = 8
# The rest is for the last answer to end in.
_SHARE_FOR_ANSWERS = 0.9

Visits = dict[tuple[int, Point], list[Visit]]


def calibrate(
    model: "ElasticModel",
    budget_s: float = CALIBRATION_BUDGET_S,
    *,
    tlm: Reader | None = None,
    clock: Clock = time.perf_counter,
) -> LatencyModel:
    """Time short answers at every level, interleaved, and fit their costs.

    They go through the token loop of every request and follow answers of other levels, so what
    is measured is what requests get, cold caches and new graphs included. Takes `budget_s`
    seconds at most, unless the model is slower than about two tokens a second; a big model is
    measured at fewer levels and shorter prompts, and the levels between are interpolated by
    their cost. `tlm` is timed, too. `clock` gives seconds. Raises BusyError if every slot of the
    model is in use.
    """
    answers_s = budget_s * _SHARE_FOR_ANSWERS
    deadline = clock() + answers_s
    encoding = measure_encoding(model)
    reading, compressing = _measure_tlm(model, tlm)
    with model.lease_slot() as slot:
        rehearsal = Rehearsal(model, clock, slot)
        schedule = _plan_within(rehearsal, answers_s)
        visits = _measure(rehearsal, schedule, deadline)
    levels = _fit_levels(model, schedule, visits)
    return LatencyModel(levels, encoding, PREFILL_CHUNK, reading, compressing)


def _measure_tlm(model: "ElasticModel", tlm: Reader | None) -> tuple[EncodeCost, EncodeCost]:
    if tlm is None:
        return EncodeCost(), EncodeCost()
    return measure_reading(model, tlm), measure_compressing(model)


def _plan_within(rehearsal: Rehearsal, budget_s: float) -> Schedule:
    model = rehearsal.model
    context_length = model.engine.context_length
    size = min(_PROBE_TOKENS, context_length - 1)
    prompt_s, step_s = (_probe(rehearsal, Point(n, size - n)) for n in (size, 1))
    costs = [level.cost for level in model.levels]
    return make_schedule(costs, context_length, prompt_s / size, step_s, budget_s)


def _probe(rehearsal: Rehearsal, point: Point) -> float:
    """Seconds to the first token at full level, without disturbance: the least of a few, but the
    first, which reads weights."""
    full = len(rehearsal.model.levels) - 1
    rehearsal.visit(full, point)
    end = rehearsal.clock() + _PROBE_S
    times = [rehearsal.visit(full, point).first_s]
    while len(times) < _MAX_PROBES and rehearsal.clock() < end:
        times.append(rehearsal.visit(full, point).first_s)
    return min(times)


def _measure(rehearsal: Rehearsal, schedule: Schedule, deadline: float) -> Visits:
    """Rounds over all points and levels until the deadline; the first round is always whole.

    A prompt gets another length in each round: as with real prompts, its graph is a new one.
    """
    context_length = rehearsal.model.engine.context_length
    visits: Visits = defaultdict(list)
    for round_number in range(MAX_ROUNDS):
        for point in schedule.points:
            for level in schedule.levels:
                if round_number > 0 and rehearsal.clock() >= deadline:
                    return visits
                varied = point.varied(round_number, context_length)
                visits[level, point].append(rehearsal.visit(level, varied))
    return visits


def _fit_levels(
    model: "ElasticModel", schedule: Schedule, visits: Visits
) -> tuple[LevelLatency, ...]:
    measured: dict[int, LevelLatency] = {}
    for level in schedule.levels:
        samples = [s for point in schedule.points for s in _samples(visits[level, point])]
        measured[level] = fit_level(model.levels[level].ratio, samples)
    known = [(model.levels[index].cost, latency) for index, latency in measured.items()]
    return tuple(
        measured.get(index) or interpolate(known, level.cost, level.ratio)
        for index, level in enumerate(model.levels)
    )


def _samples(visits: list[Visit]) -> list[Sample]:
    """A point's prefill and its mean decode step: medians over the rounds, of lengths and times."""
    num_tokens = median(visit.point.num_tokens for visit in visits)
    start = median(visit.point.start for visit in visits)
    samples = []
    if visits[0].point.has_prompt:
        samples.append(Sample(num_tokens, start, 1000 * median(v.first_s for v in visits)))
    steps = [visit.step_s for visit in visits if visit.step_s is not None]
    if steps:
        kv_tokens = start + num_tokens + (visits[0].point.steps - 1) / 2
        samples.append(Sample(1, kv_tokens, 1000 * median(steps)))
    return samples
