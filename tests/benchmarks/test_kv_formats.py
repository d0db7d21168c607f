"""The benchmark of KV formats on a few conversations and a small cache."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pliant.bundle import open_bundle
from pliant.contexts.codec import ChunkCodec
from pliant.engine.engine import Engine
from pliant.engine.model import ElasticModel, load
from pliant.engine.options import EngineOptions
from pliant.ggml.types import GgmlType
from support.tiny_gguf import make_tiny_gguf

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import kv_formats
from _kv_quality import Quality, make_cases
from _report import Report
from _requests import APPS


@pytest.fixture(scope="module")
def model() -> Iterator[ElasticModel]:
    with load("pocket", EngineOptions(slots=2, threads=1)) as model:
        yield model


def test_quality(model: ElasticModel) -> None:
    codec = ChunkCodec(model.engine)
    runner = Quality(model, codec, 64)
    cases = make_cases(model, 1, 64, seed=0)
    formats = {"16": 16, "8": 8, "2": 2, "mixed 4.5": ("mixed", 4.5), "rows": kv_formats.Q4}
    found = {name: kv_formats.row(rows) for name, rows in runner.run(cases[::3], formats).items()}
    codec.close()
    assert {case.app for case in cases} == {*APPS}
    assert found["16"]["kl"] == 0.0
    assert found["8"]["kl"] < found["mixed 4.5"]["kl"] < found["2"]["kl"]
    assert found["mixed 4.5"]["bits"] <= 4.5
    assert found["rows"]["bits"] == 4.5


def test_speed_and_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_formats, "CACHE_TOKENS", 128)
    monkeypatch.setattr(kv_formats, "PROMPT", 64)
    monkeypatch.setattr(kv_formats, "ANSWER", 16)
    path = make_tiny_gguf(tmp_path / "m.gguf", context=128, vocab=8000, type=GgmlType.F16.name)
    engine = Engine(open_bundle(path), EngineOptions(threads=1, slots=2))
    report = Report("kv_formats", quick=True)
    kv_formats.speed(report, engine)
    kv_formats.probe(report, engine)
    kv_formats.claim_speed(report)
    engine.close()
    assert [row["format"] for row in report.results[:4]] == ["16", "8", "4", "2"]
    assert len(report.claims) == 2
