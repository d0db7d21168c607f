"""Choices scored after many prompts that are much alike, through the engine.

A slot keeps the keys and values of the prompt before, so that of the next one only what follows
their common beginning is computed; several questions go through in step, one slot each, so that
their tokens share forward passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import Level
from pliant.engine.engine import MAX_BATCH, Engine
from pliant.engine.model import ElasticModel
from pliant.engine.questions import TextPrompt
from pliant.engine.sampling import log_softmax
from pliant.engine.span import Span

Scores = NDArray[np.float64]
_Tokens = Sequence[int]


@dataclass(frozen=True)
class Job:
    """Token ids of prompts, neighbours best being alike, and of the choices after each of them."""

    prompts: tuple[_Tokens, ...]
    choices: tuple[_Tokens, ...]


@contextmanager
def all_slots(model: ElasticModel) -> Iterator[list[int]]:
    """Every slot of the engine, for as long as it lasts; BusyError if one is in use."""
    with ExitStack() as stack:
        yield [stack.enter_context(model.lease_slot()) for _ in range(model.engine.num_slots)]


def encode_choices(
    model: ElasticModel, prompt: TextPrompt, choices: Sequence[str]
) -> tuple[_Tokens, ...]:
    """Tokens of each choice as it stands after `prompt`."""
    before = prompt if isinstance(prompt, str) else ""
    return tuple(tuple(model.tokenizer.encode_continuation(before, one)) for one in choices)


def score_jobs(
    engine: Engine, level: Level, jobs: Sequence[Job], slots: Sequence[int]
) -> list[Scores]:
    """Mean natural log-probability per token, [prompts, choices] for each job.

    As `ElasticModel.score` for each prompt on its own, but for the rounding that depends on what is
    computed together. There are at most as many jobs as slots, and every prompt fits the
    context together with its longest choice.
    """
    lanes = [
        _Lane(slot, job, np.empty((len(job.prompts), len(job.choices))))
        for slot, job in zip(slots, jobs, strict=False)
    ]
    for step in range(max((len(job.prompts) for job in jobs), default=0)):
        changed = [lane for lane in lanes if lane.begin(step)]
        _run_prompts(engine, level, changed)
        _run_choices(engine, level, changed)
        for lane in changed:
            lane.scores[step] = lane.totals / [len(choice) for choice in lane.job.choices]
    return [lane.scores for lane in lanes]


@dataclass
class _Lane:
    """A job in its slot, which holds the tokens `held`; `totals` are of the prompt at hand."""

    slot: int
    job: Job
    scores: Scores
    held: _Tokens = ()
    pending: _Tokens = ()
    totals: Scores = field(default_factory=lambda: np.empty(0))

    def begin(self, step: int) -> bool:
        """Turn to the next prompt; whether there is one that differs from the one before."""
        if step >= len(self.job.prompts):
            return False
        prompt = self.job.prompts[step]
        if step > 0 and prompt == self.held:
            self.scores[step] = self.scores[step - 1]
            return False
        # Its last token is computed in any case: the logits after it are wanted.
        kept = min(common_prefix(self.held, prompt), len(prompt) - 1)
        self.held, self.pending = prompt, prompt[kept:]
        return True

    def next_span(self, room: int) -> Span:
        tokens = self.pending[:room]
        start = len(self.held) - len(self.pending)
        self.pending = self.pending[room:]
        return Span(self.slot, tokens, start, "none" if self.pending else "last")

    def start_choices(self, after_prompt: NDArray[np.float32]) -> None:
        first = log_softmax(after_prompt)
        self.totals = np.array([float(first[choice[0]]) for choice in self.job.choices])


def common_prefix(one: _Tokens, other: _Tokens) -> int:
    """How many tokens both begin with."""
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)


def _run_prompts(engine: Engine, level: Level, lanes: Sequence[_Lane]) -> None:
    """What is new of each lane's prompt, in batches as full as can be."""
    while waiting := [lane for lane in lanes if lane.pending]:
        spans, room = [], MAX_BATCH
        for lane in waiting:
            if room == 0:
                break
            spans.append(lane.next_span(room))
            room -= len(spans[-1].tokens)
        rows = iter(engine.forward(level, spans))
        for lane, span in zip(waiting, spans, strict=False):
            if span.outputs == "last":
                lane.start_choices(next(rows))


def _run_choices(engine: Engine, level: Level, lanes: Sequence[_Lane]) -> None:
    """All tokens of choices but the first, whose log-probability the prompt gave: each lane's
    choices one after the other, in the same place."""
    for index in range(max((len(lane.job.choices) for lane in lanes), default=0)):
        there = [lane for lane in lanes if index < len(lane.job.choices)]
        longer = [lane for lane in there if len(lane.job.choices[index]) > 1]
        for batch in _batches(longer, index):
            _run_choice(engine, level, batch, index)


def _batches(lanes: Sequence[_Lane], index: int) -> Iterator[list[_Lane]]:
    batch: list[_Lane] = []
    room = MAX_BATCH
    for lane in lanes:
        length = len(lane.job.choices[index]) - 1
        if batch and length > room:
            yield batch
            batch, room = [], MAX_BATCH
        batch.append(lane)
        room -= length
    if batch:
        yield batch


def _run_choice(engine: Engine, level: Level, lanes: Sequence[_Lane], index: int) -> None:
    choices = [lane.job.choices[index] for lane in lanes]
    spans = [
        Span(lane.slot, choice[:-1], len(lane.held), "all")
        for lane, choice in zip(lanes, choices, strict=True)
    ]
    logs = log_softmax(engine.forward(level, spans))
    first = 0
    for lane, choice in zip(lanes, choices, strict=True):
        rows = np.arange(first, first + len(choice) - 1)
        lane.totals[index] += float(logs[rows, list(choice[1:])].sum(dtype=np.float64))
        first += len(rows)
