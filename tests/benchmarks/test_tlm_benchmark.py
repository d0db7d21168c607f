"""The TLM benchmark on models small enough to run in a moment."""

import sys
from pathlib import Path

from pliant.tlm.training.build import Shape, fresh_network
from pliant.tlm.training.export import write_tlm
from support.tiny_bundle import make_tiny_bundle

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _report import Report
from tlm import Bench


def test_measures_and_states_its_claim(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny", context=1024)
    shape = Shape(hidden_size=32, ff=32, num_heads=1, window=64)
    tlm = write_tlm(tmp_path / "tlm.gguf", fresh_network(bundle, shape)).gguf.path
    report = Report("tlm")
    Bench(report, rounds=1).shares("tiny", bundle, tlm, [20], 0.5)
    assert [row["tokens"] for row in report.results] == [20]
    assert all(row["tlm_ms"] > 0 < row["decision_share"] for row in report.results)
    assert [claim.goal for claim in report.claims] == ["<= 0.5"]
