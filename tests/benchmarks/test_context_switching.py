"""The parts of the benchmark of context switching, on a model that runs in a moment."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from pliant.ggml.types import GgmlType

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import context_switching
from _report import Report
from _synthetic import Shape, make_bundle
from context_switching import BASELINES, Bench, Cell, Scale, claims, measure, plot, trace

TINY = Shape(
    layers=2, hidden=256, heads=8, kv_heads=4, head_dim=128, ff=2048, vocab=256, context=1024
)
SCALE = Scale((5,), (64, 200), 12, (0.5,), ("SD card",))


def test_a_trace_goes_back_and_prefers_the_popular() -> None:
    calls = trace(16, 2000, 0)
    counts = [calls.count(context) for context in range(16)]
    assert min(counts) > 0 and counts[0] == max(counts)
    back = sum(calls[i] in calls[max(0, i - 8) : i] for i in range(8, 2000))
    assert back > 1000


def test_every_manager_answers_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_switching, "THREADS", 1)
    report = Report("context_switching")
    bundle = make_bundle(tmp_path, GgmlType.Q4_K, TINY)
    bench = Bench(report, "tiny", bundle, SCALE)
    bench.run(Cell("tiny", "SD card", 5, 0.5), tmp_path)
    bench.close()
    assert {row["manager"] for row in report.results} == {*BASELINES, "pliant"}
    assert all(row["mean_ms"] > 0 for row in report.results)
    claims(report, "tiny")
    assert len(report.claims) == 4
    plot(report.results, "tiny", tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()


def test_cells_are_chosen_by_words_and_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that what is measured is on the disk after each cell."""
    scale = Scale((3,), (64,), 4, (0.5, 0.25), ("SD card", "eMMC"))
    monkeypatch.setattr(context_switching, "THREADS", 1)
    monkeypatch.setattr(context_switching, "MODELS", tmp_path)
    monkeypatch.setattr(context_switching, "LLAMA_QUICK", TINY)
    monkeypatch.setattr(context_switching, "scales", lambda quick: {"1B shape": scale})
    options = Namespace(only=["eMMC", "1/4"], quick=True, json=tmp_path / "r.json")
    report = Report("context_switching", quick=True)
    measure(report, options, tmp_path)
    rows = json.loads((tmp_path / "r.json").read_text())["results"]
    assert {(row["storage"], row["budget"]) for row in rows} == {("eMMC", 0.25)}
    assert len(rows) == len(BASELINES) + 1
    options.only = ["eMMC"]
    measure(report, options, tmp_path)
    assert report.results[: len(rows)] == rows
    assert [row["budget"] for row in report.results[len(rows) :]] == [0.5] * len(rows)
