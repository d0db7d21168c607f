"""The two files of a report, made when everything else of the bundle is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pliant.bundle import Bundle
from pliant.bundle.manifest import REPORT_DATA_FILE, REPORT_PAGE_FILE
from pliant.elastify.report.collect import collect_report
from pliant.elastify.report.data import Report
from pliant.elastify.report.measure import measure_levels
from pliant.elastify.report.page import render_page
from pliant.elastify.report.stopwatch import Stopwatch
from pliant.elastify.units import UnitScores
from pliant.elastify.verify import Verification
from pliant.elastify.windows import Windows
from pliant.elastify.work import WorkFolder
from pliant.engine.questions import Question
from pliant.errors import ElastifyError
from pliant.progress import Track


def make_report(
    name: str,
    bundle: Bundle,
    work: WorkFolder,
    *,
    provenance: Mapping[str, Any],
    scores: UnitScores,
    verification: Verification,
    batches: Sequence[Windows],
    questions: Sequence[Question],
    stopwatch: Stopwatch,
    track: Track,
) -> dict[str, Path]:
    """Measures the levels of `bundle`, the draft of the bundle `name`, and writes its report into
    the work folder. The rest is as `measure_levels` and `collect_report` take it; returns paths by
    name.
    """
    measured = measure_levels(bundle, batches, questions, work, track)
    stopwatch.lap("perplexity and accuracy of the levels")
    report = collect_report(name, bundle, provenance, scores, verification, measured, stopwatch)
    return write_report(report, work.path)


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Writes `report.html` and `report.json` into `folder`; returns their paths by name.

    Raises ElastifyError if that fails, or if a figure is not a number.
    """
    paths = {name: folder / name for name in (REPORT_PAGE_FILE, REPORT_DATA_FILE)}
    try:
        texts = {REPORT_PAGE_FILE: render_page(report), REPORT_DATA_FILE: report.to_text()}
        for name, path in paths.items():
            path.write_text(texts[name], encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ElastifyError(f"cannot write the report in {folder}: {error}") from error
    return paths
