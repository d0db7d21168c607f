"""The parts of the engine benchmark on a model small enough to run in a moment."""

import sys
from pathlib import Path

import pytest

from pliant.ggml.types import GgmlType

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _synthetic import RATIOS, Shape, make_bundle
from _workers import Task, Worker, llama_worker, pliant_worker

TINY = Shape(
    layers=2, hidden=256, heads=8, kv_heads=4, head_dim=128, ff=2048, vocab=256, context=1024
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory):
    return make_bundle(tmp_path_factory.mktemp("models"), GgmlType.Q4_K, TINY)


def test_levels_are_within_their_ratios(bundle) -> None:
    assert [level.ratio for level in bundle.levels] == [*RATIOS, 1.0]
    assert all(level.cost <= level.ratio for level in bundle.levels)


def test_a_bundle_is_made_once(bundle) -> None:
    before = bundle.gguf.path.stat().st_mtime_ns
    again = make_bundle(bundle.path.parent, GgmlType.Q4_K, TINY)
    assert again.gguf.path.stat().st_mtime_ns == before


def test_both_workers_run_every_task(bundle) -> None:
    ours = Worker(pliant_worker, bundle.path, 1, "auto")
    theirs = Worker(llama_worker, bundle.gguf.path, 1, True)
    for task in (Task("prefill", 64), Task("decode", 4), Task("decode", 4)):
        seconds, outside = ours.run(task)
        assert 0 < outside < seconds
        assert theirs.run(task)[0] > 0
    assert ours.run(Task("prefill", 64, 0.25))[0] > 0
    free = Worker(pliant_worker, bundle.path, 1, "auto", True)
    assert free.run(Task("decode", 4))[0] > 0
    free.close()
    assert ours.run(Task("memory")) > 1 << 20
    ours.close()
    theirs.close()
