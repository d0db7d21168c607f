"""How good a bundle's TLM is: shortened prompts' accuracy, and the decisions' under SLOs.

Latencies are taken for what the ratios promise: TTFT for level x prompt ratio, TPOT for the level.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pliant.bundle import open_bundle
from pliant.engine.questions import read_questions
from pliant.errors import BundleError, LabelError
from pliant.progress import Track, untracked
from pliant.tlm.labels.label import Labeller
from pliant.tlm.labels.rows import DecisionRow
from pliant.tlm.model import TinyModel

PAPER_SLOS = ((1.0, 1.0), (0.8, 0.9), (0.6, 0.8), (0.4, 0.7), (0.2, 0.6), (0.2, 0.5))
"""(TTFT, TPOT) of the six apps of ElastiLM's trace (arXiv 2409.09071, section 4.1)."""

_TOLERANCE = 1e-6

Table = NDArray[np.bool_]


@dataclass(frozen=True)
class SloScore:
    """Shares of questions answered right under one SLO.

    `chosen` by the decision head; `rule` takes the longest prompt and then the largest level;
    `random` is the mean over the feasible pairs; `oracle` counts a question that any of them
    answers right.
    """

    ttft: float
    tpot: float
    chosen: float
    rule: float
    random: float
    oracle: float


@dataclass(frozen=True)
class Evaluation:
    """`accuracy`: share of right answers [levels][prompt ratios]; `slos` one for each SLO."""

    questions: int
    skipped: int
    levels: tuple[float, ...]
    prompt_ratios: tuple[float, ...]
    accuracy: tuple[tuple[float, ...], ...]
    slos: tuple[SloScore, ...]


def evaluate(
    source: str | Path,
    tasks: Path,
    *,
    slos: Sequence[tuple[float, float]] = PAPER_SLOS,
    track: Track = untracked,
) -> Evaluation:
    """Asks every question of `tasks` at every pair of level and prompt ratio.

    Raises BundleError for a bundle without TLM, and LabelError for a file without questions that
    fit.
    """
    bundle = open_bundle(source)
    if bundle.tlm_path is None:
        raise BundleError(f"{bundle.name} has no TLM; `pliant tlm train` makes one")
    questions = read_questions(tasks)
    with closing(Labeller(bundle)) as labeller:
        fitting = [question for question in questions if labeller.fits(question)]
        if not fitting:
            raise LabelError(f"none of the questions in {tasks} fits the context of {bundle.name}")
        size = labeller.model.engine.num_slots
        groups = [fitting[at : at + size] for at in range(0, len(fitting), size)]
        rows: list[DecisionRow] = []
        for group in track(groups, "questions", len(groups)):
            rows += labeller.decisions(group)
        assert labeller.tlm is not None
        scores = tuple(score_slo(labeller.tlm, rows, *slo) for slo in slos)
    return Evaluation(
        questions=len(rows),
        skipped=len(questions) - len(fitting),
        levels=rows[0].levels,
        prompt_ratios=rows[0].prompt_ratios,
        accuracy=tuple(map(tuple, np.mean([row.right for row in rows], axis=0).tolist())),
        slos=scores,
    )


def score_slo(tlm: TinyModel, rows: Sequence[DecisionRow], ttft: float, tpot: float) -> SloScore:
    """What the decision head makes of `rows` under one SLO, beside what others would."""
    feasible = feasible_pairs(rows[0], ttft, tpot)
    level, ratio = max(zip(*np.nonzero(feasible), strict=True), key=lambda pair: pair[::-1])
    right = np.array([row.right for row in rows], dtype=bool)
    chosen = [choose(tlm, row.text, feasible, ttft, tpot) for row in rows]
    return SloScore(
        ttft=ttft,
        tpot=tpot,
        chosen=float(np.mean([found[pair] for found, pair in zip(right, chosen, strict=True)])),
        rule=float(right[:, level, ratio].mean()),
        random=float(right[:, feasible].mean()),
        oracle=float(right[:, feasible].any(axis=1).mean()),
    )


def feasible_pairs(row: DecisionRow, ttft: float, tpot: float) -> Table:
    """Which pairs meet the SLO, bool [levels, prompt ratios]; the lightest one if none does."""
    levels, ratios = np.array(row.levels)[:, None], np.array(row.prompt_ratios)
    feasible: Table = (levels * ratios <= ttft + _TOLERANCE) & (levels <= tpot + _TOLERANCE)
    if not feasible.any():
        feasible[0, 0] = True
    return feasible


def choose(tlm: TinyModel, text: str, feasible: Table, ttft: float, tpot: float) -> tuple[int, int]:
    """The feasible pair whose level and prompt ratio the decision head finds likeliest together."""
    reading = tlm.read(text, ttft, tpot, scored=False)
    together = np.outer(reading.levels, reading.prompt_ratios)
    index = int(np.where(feasible, together, -1.0).argmax())
    level, ratio = divmod(index, together.shape[1])
    return level, ratio
