import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from pliant.tlm.install import install_tlm
from pliant.tlm.training.build import fresh_network
from pliant.tlm.training.export import write_tlm
from support.tiny_bundle import make_tiny_bundle

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "orchestrator.py"


def test_compares_policies_and_counts_slos(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny", context=2048)
    write_tlm(tmp_path / "tlm.gguf", fresh_network(bundle))
    install_tlm(bundle.path, tmp_path / "tlm.gguf")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--bundle", bundle.path, "--quick", "--rows", "1"]
        + ["--requests", "8", "--json", tmp_path / "out.json"],
        env=os.environ | {"PLIANT_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "oracle" in done.stdout and "errors" in done.stdout
    document = json.loads((tmp_path / "out.json").read_text())
    assert len(document["claims"]) == 7
    rows = [row for row in document["results"] if row["part"] == "accuracy"]
    by_slo: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        by_slo.setdefault(row["slo"], {})[row["policy"]] = row
    assert len(by_slo.pop("mean of six")) == 5 and len(by_slo) == 6
    for policies in by_slo.values():
        best = policies["oracle"]["accuracy"]
        assert best >= policies["random feasible"]["accuracy"]
        assert best >= policies["orchestrated"]["accuracy"]
    whole = by_slo["<100%,100%>"]
    assert whole["model only"]["level"] == whole["orchestrated"]["level"] == 1.0
    runs = {row["run"]: row for row in document["results"] if row["part"] == "timed"}
    assert runs["idle"]["requests"] == 8 and runs["second half"]["requests"] == 4
    assert all(0 <= row["attainment"] <= 1 for row in runs.values())


def test_a_bundle_without_a_tlm_is_refused(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--bundle", bundle.path, "--quick"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "has no TLM" in done.stderr
