"""How often a request is answered right under each way to choose its level and prompt ratio.

Feasible is what a model of latencies says that is the levels' costs and nothing measured, so that
the same weights give the same figures on every machine.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean

import numpy as np

from _requests import Scene
from pliant.engine.model import ElasticModel, Prompt
from pliant.slo import (
    DecodeCost,
    EncodeCost,
    LatencyModel,
    LevelLatency,
    Limits,
    OnlineLatency,
    Orchestrator,
    PrefillCost,
    Slo,
    Strategy,
    resolve,
)
from pliant.slo.choice import choose_by_rule, closest
from pliant.slo.grid import Work, make_grid
from pliant.slo.reader import Reader
from pliant.slo.shortening import Shortener
from pliant.tlm.protect import STRUCTURE

POLICIES = ("orchestrated", "model only", "prompt only", "random feasible", "oracle")
MAX_TOKENS = 8
# Of the full model's prefill; the timed part measures the real share.
TLM_SHARE = 0.05

Pair = tuple[float, float]


def cost_latency(model: ElasticModel) -> LatencyModel:
    """A prompt token and a step take the level's cost in milliseconds; the TLM its share."""
    levels = tuple(
        LevelLatency(
            level.ratio,
            PrefillCost(0.0, level.cost, 0.0),
            PrefillCost(0.0, level.cost, 0.0),
            DecodeCost(level.cost, 0.0),
        )
        for level in model.levels
    )
    return LatencyModel(levels, EncodeCost(), 512, EncodeCost(0.0, TLM_SHARE))


@dataclass
class Tried:
    """One request; what is right at which pair is computed once, when it is asked for."""

    model: ElasticModel
    tlm: Reader
    scene: Scene
    known: dict[Pair, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prompt: Prompt = self.scene.prompt()
        tokens = self.model.encode_prompt(self.prompt)
        self.shortener = Shortener(self.model, self.prompt, tokens, STRUCTURE)
        self.num_tokens = len(tokens)
        self.reading = self.tlm.read(self.shortener.text)
        self.prompts: dict[float, Prompt] = {1.0: self.prompt}

    def is_right(self, strategy: Strategy) -> bool:
        pair = strategy.level, strategy.prompt_ratio
        if pair not in self.known:
            turn = self.scene.turns[0]
            scores = self.model.score(self._shortened(pair[1]), turn.choices, level=pair[0])
            self.known[pair] = int(np.argmax(scores)) == turn.answer_index
        return self.known[pair]

    def _shortened(self, ratio: float) -> Prompt:
        if ratio not in self.prompts:
            self.prompts[ratio] = self.shortener.shorten(ratio, self.reading).prompt
        return self.prompts[ratio]


@dataclass(frozen=True)
class Outcome:
    """`right` is a share where a policy picks at random."""

    right: float
    is_in_slo: bool
    level: float
    prompt_ratio: float


def accuracy(
    model: ElasticModel, tlm: Reader, scenes: Sequence[Scene], slos: Mapping[str, Slo]
) -> list[dict[str, object]]:
    """A row per SLO and policy, over all scenes. `accuracy_in_slo` counts only answers whose
    strategy is predicted to keep to the SLO."""
    base = cost_latency(model)
    orchestrator = Orchestrator(model, OnlineLatency(base), tlm)
    found: dict[tuple[str, str], list[Outcome]] = {}
    for number, scene in enumerate(scenes, 1):
        tried = Tried(model, tlm, scene)
        for name, slo in slos.items():
            for policy, outcome in _outcomes(orchestrator, tried, slo).items():
                found.setdefault((name, policy), []).append(outcome)
        print(f"\r{number} of {len(scenes)} requests", end="", file=sys.stderr)
    print(file=sys.stderr)
    return [_row(name, policy, outcomes) for (name, policy), outcomes in found.items()]


def _row(slo: str, policy: str, outcomes: Sequence[Outcome]) -> dict[str, object]:
    return {
        "part": "accuracy",
        "slo": slo,
        "policy": policy,
        "accuracy": 100 * mean(o.right for o in outcomes),
        "accuracy_in_slo": 100 * mean(o.right * o.is_in_slo for o in outcomes),
        "in_slo": 100 * mean(o.is_in_slo for o in outcomes),
        "level": mean(o.level for o in outcomes),
        "prompt_ratio": mean(o.prompt_ratio for o in outcomes),
    }


def _outcomes(orchestrator: Orchestrator, tried: Tried, slo: Slo) -> dict[str, Outcome]:
    base = orchestrator.latency.base
    limits = resolve(base, tried.num_tokens, slo, MAX_TOKENS)
    pairs, whole = _grids(orchestrator, tried, limits)
    full = [s for s in pairs if s.level == base.ratios[-1]]
    decided = orchestrator.decide(tried.prompt, slo, max_tokens=MAX_TOKENS).strategy
    pool = _pool((*pairs, *whole))
    best = max(pool, key=tried.is_right)
    return {
        "orchestrated": _outcome(tried, decided),
        "model only": _outcome(tried, choose_by_rule(_pool(whole))),
        "prompt only": _outcome(tried, _longest_in_time(full, limits)),
        "random feasible": Outcome(
            mean(tried.is_right(s) for s in pool),
            pool[0].feasible,
            mean(s.level for s in pool),
            mean(s.prompt_ratio for s in pool),
        ),
        "oracle": _outcome(tried, best),
    }


def _grids(
    orchestrator: Orchestrator, tried: Tried, limits: Limits
) -> tuple[tuple[Strategy, ...], tuple[Strategy, ...]]:
    """All pairs, which pay for the TLM, and the whole prompt at every level, which does not."""
    latency, ratios = orchestrator.latency, orchestrator.latency.base.ratios
    read = Work(tried.num_tokens, MAX_TOKENS, tried.shortener.min_tokens, is_read=True)
    pairs = make_grid(latency, read, ratios, tried.tlm.prompt_ratios, limits)
    whole = make_grid(latency, Work(tried.num_tokens, MAX_TOKENS), ratios, (1.0,), limits)
    return pairs, whole


def _pool(candidates: Sequence[Strategy]) -> tuple[Strategy, ...]:
    return tuple(s for s in candidates if s.feasible) or closest(candidates)


def _longest_in_time(full: Sequence[Strategy], limits: Limits) -> Strategy:
    """The longest prompt whose TTFT fits; a prompt's length does not help its TPOT."""
    fits = [s for s in full if limits.ttft_ms is None or s.predicted_ttft_ms <= limits.ttft_ms]
    return choose_by_rule(fits or full[:1])


def _outcome(tried: Tried, strategy: Strategy) -> Outcome:
    right = float(tried.is_right(strategy))
    return Outcome(right, strategy.feasible, strategy.level, strategy.prompt_ratio)
