"""Puts together what the steps of `pliant elastify` found out; measures nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pliant.bundle import Bundle, describe
from pliant.bundle.describe import LevelDescription
from pliant.elastify.report.data import (
    LayerLosses,
    LevelReport,
    PlanLosses,
    RecoveredLevelReport,
    RecoveryReport,
    Report,
    TaskAccuracy,
    UnitImportance,
)
from pliant.elastify.report.measure import LevelMeasurement, Measurements
from pliant.elastify.report.stopwatch import Stopwatch
from pliant.elastify.units import UnitScores
from pliant.elastify.verify import Verification

NEURON_BINS = 64


def collect_report(
    name: str,
    bundle: Bundle,
    provenance: Mapping[str, Any],
    scores: UnitScores,
    verification: Verification,
    measured: Measurements,
    stopwatch: Stopwatch,
) -> Report:
    """The report of the bundle `name`, of which `bundle` is the draft with its final levels.

    `provenance` is what its manifest will say; `scores` are those of the model as it came.
    """
    architecture = bundle.architecture
    return Report(
        name=name,
        facts=_facts(bundle, provenance),
        perplexity_tokens=measured.num_tokens,
        importance=UnitImportance(
            estimator=str(provenance["importance"]),
            heads=_rows(_descending(scores.heads)),
            neurons=_rows(_binned(_descending(scores.neurons))),
            neurons_per_layer=architecture.ff,
        ),
        layers=LayerLosses(tuple(provenance["losses_without_layer"]), tuple(provenance["anchors"])),
        plans=_plans(provenance),
        levels=tuple(_level(level, measured) for level in describe(bundle).levels),
        recovery=_recovery(provenance),
        notes=tuple(provenance["notes"]),
        verification=verification,
        times=stopwatch.steps,
    )


def _facts(bundle: Bundle, provenance: Mapping[str, Any]) -> dict[str, str]:
    arch = bundle.architecture
    versions = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    return {
        "family": arch.name,
        "shape": f"{arch.num_layers} layers, {arch.hidden_size} wide, {arch.num_heads} heads, "
        f"{arch.num_kv_heads} KV heads, {arch.ff} MLP neurons, {arch.vocab_size} tokens",
        "context": f"{arch.context_length} tokens",
        "parameters": f"{describe(bundle).parameters:,}",
        "quantization": str(provenance["quantization"]),
        "model file": f"{bundle.gguf.size:,} bytes",
        "calibration": f"{provenance['calibration']['tokens']:,} tokens",
        "made with": versions,
    }


def _plans(provenance: Mapping[str, Any]) -> PlanLosses | None:
    plans = provenance.get("plans")
    return None if plans is None else PlanLosses(plans["kind"], plans["losses"])


def _recovery(provenance: Mapping[str, Any]) -> RecoveryReport | None:
    told = provenance.get("recovery")
    if told is None:
        return None
    options = told["options"]
    levels = tuple(
        RecoveredLevelReport(**row | {"training_losses": tuple(row["training_losses"])})
        for row in told["levels"]
    )
    return RecoveryReport(
        options["loss"], options["rank"], options["steps"], told["full_loss"], levels
    )


def _level(level: LevelDescription, measured: Measurements) -> LevelReport:
    bare, adapted = measured.bare[level.ratio], measured.adapted.get(level.ratio)
    return LevelReport(
        ratio=level.ratio,
        cost=level.cost,
        parameters=level.parameters,
        plan=tuple(map(tuple, level.plan)),
        adapter_bytes=level.adapter.nbytes if level.adapter else None,
        bare_perplexity=bare.perplexity,
        recovered_perplexity=adapted.perplexity if adapted else None,
        accuracy=_accuracy(bare, adapted),
    )


def _accuracy(bare: LevelMeasurement, adapted: LevelMeasurement | None) -> tuple[TaskAccuracy, ...]:
    """Of the tasks of which at least one question fits."""
    return tuple(
        TaskAccuracy(
            task=task,
            questions=score.answered,
            skipped=score.skipped,
            bare=score.right / score.answered,
            recovered=adapted.tasks[task].right / score.answered if adapted else None,
        )
        for task, score in bare.tasks.items()
        if score.answered
    )


def _descending(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return -np.sort(-scores, axis=1)


def _binned(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Means of at most NEURON_BINS equal shares of each row."""
    bins = np.array_split(rows, min(NEURON_BINS, rows.shape[1]), axis=1)
    return np.stack([part.mean(axis=1) for part in bins], axis=1)


def _rows(matrix: npt.NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    """In four digits: enough for a picture."""
    return tuple(tuple(float(f"{value:.4g}") for value in row) for row in matrix)
