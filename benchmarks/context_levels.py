"""What answers lose when the context before a question was computed at a higher level.

A call at level b reads a prefix of the heads that a larger level a computed for its context. That
is not what b itself, with its adapter, would have computed. Conversations of the built-in model,
whose context was computed at a and whose last question is answered at b, against both at b: right
answers, and the KL divergence of the answer's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from _kv_quality import Case, make_cases
from _report import Report, parser
from pliant.bundle import Level
from pliant.contexts.identity import CHUNK_TOKENS
from pliant.engine.model import ElasticModel, load
from pliant.engine.sampling import log_softmax
from pliant.engine.span import Span

PER_APP = 16
QUICK_PER_APP = 2
LEVELS = (0.3, 0.5, 0.7, 1.0)
QUICK_LEVELS = (0.5, 1.0)
GRACE_POINTS = 1.0


@dataclass(frozen=True)
class Answer:
    """`logs`: log-probabilities [tokens, vocab] at the right choice's tokens."""

    is_right: bool
    logs: np.ndarray


def answer(model: ElasticModel, case: Case, context: Level, question: Level) -> Answer:
    """The last question of a case, scored by the mean log-probability of each choice."""
    engine, length = model.engine, len(case.tokens)
    with model.lease_slot() as slot:
        engine.forward(context, [Span(slot, case.tokens[: case.stored], 0, "none")])
        rest = Span(slot, case.tokens[case.stored :], case.stored)
        first = engine.forward(question, [rest]).copy()
        scores, right = [], first
        for index, choice in enumerate(case.choices):
            rows = first
            if len(choice) > 1:
                span = Span(slot, choice[:-1], length, "all")
                rows = np.concatenate([first, engine.forward(question, [span])])
            logs = log_softmax(rows)
            scores.append(float(logs[np.arange(len(choice)), choice].mean()))
            right = logs if index == case.right else right
    return Answer(int(np.argmax(scores)) == case.right, right)


def divergence(reference: Answer, other: Answer) -> float:
    """KL(reference || other), nats per token."""
    p = np.exp(reference.logs)
    return float((p * (reference.logs - other.logs)).sum(axis=-1).mean())


def measure(model: ElasticModel, cases: Sequence[Case], report: Report) -> None:
    ratios = QUICK_LEVELS if report.quick else LEVELS
    levels = [level for level in model.levels if level.ratio in ratios]
    for question in levels:
        own = [answer(model, case, question, question) for case in cases]
        own_points = 100 * mean(found.is_right for found in own)
        for context in levels:
            if context.ratio < question.ratio:
                continue
            found = [answer(model, case, context, question) for case in cases]
            points = 100 * mean(one.is_right for one in found)
            report.row(
                question=question.ratio,
                context=context.ratio,
                right=points,
                kl=mean(divergence(a, b) for a, b in zip(own, found, strict=True)),
            )
            if context.ratio == 1.0 and question.ratio < 1.0:
                name = f"points lost at {question.ratio:g} after a context at 1"
                report.at_most(name, GRACE_POINTS, own_points - points)


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    report = Report("context_levels", options.seed, options.quick)
    with load("pocket") as model:
        per_app = QUICK_PER_APP if options.quick else PER_APP
        measure(model, make_cases(model, per_app, CHUNK_TOKENS, options.seed), report)
    report.finish(options.json)


if __name__ == "__main__":
    main()
