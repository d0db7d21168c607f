"""The benchmark of journal and store on a few small contexts."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _report import Report
from context_store import Bench


def test_measures_and_states_its_claims(tmp_path: Path) -> None:
    report = Report("context_store")
    bench = Bench(report, tmp_path, repeats=2)
    bench.journal()
    bench.checksums()
    bench.chunks(2)
    bench.growth(2, 4)
    assert [claim.goal for claim in report.claims] == ["<= 1", "<= 1.5"]
    assert all(row.get("ms", 1) > 0 for row in report.results)
    emulated = [row for row in report.results if "against_the_device" in row]
    assert len(emulated) == 3
    assert all(row["against_the_device"] >= 1 for row in emulated)
