"""The adapter benchmark on a model small enough to run in a moment."""

import sys
from pathlib import Path

import pytest

from pliant.ggml.types import GgmlType

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _report import Report
from _synthetic import Shape, make_adapted_bundle, make_bundle
from adapters import RANK, Bench

TINY = Shape(
    layers=2, hidden=256, heads=8, kv_heads=4, head_dim=128, ff=2048, vocab=256, context=1024
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def test_every_level_but_the_full_one_has_an_adapter(folder: Path) -> None:
    bundle = make_adapted_bundle(folder, GgmlType.Q4_0, TINY, RANK)
    assert [level.adapter is None for level in bundle.levels] == [False] * 9 + [True]
    assert bundle.sha256 == make_bundle(folder, GgmlType.Q4_0, TINY).sha256
    assert all(adapter.rank == RANK for adapter in bundle.adapters.values())


def test_measures_and_states_its_claims(folder: Path) -> None:
    bundle = make_adapted_bundle(folder, GgmlType.Q4_0, TINY, RANK)
    report = Report("adapters")
    bench = Bench(report, rounds=1, steps=1, prompt=8)
    bench.time(bundle, GgmlType.Q4_0)
    bench.load(bundle, GgmlType.Q4_0)
    assert [claim.goal for claim in report.claims] == ["<= 1.08", "<= 1.08"]
    assert report.results[-1]["loaded_mib"] > 0
