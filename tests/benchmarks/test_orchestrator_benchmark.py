import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pliant import ElasticModel, EngineOptions, load
from pliant.cli.demo_requests import APPS
from pliant.slo import OnlineLatency, Orchestrator
from support.readers import FixedReader
from support.synthetic_latency import make_latency
from support.tiny_bundle import RATIOS, make_tiny_bundle

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPT = FOLDER / "orchestrator.py"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ElasticModel]:
    bundle = make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", context=2048)
    with load(bundle.path, EngineOptions(threads=1)) as model:
        yield model


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's modules, from their folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import _attainment
    import _policies
    import _requests

    return _policies, _attainment, _requests


def test_the_oracle_is_never_beaten(model: ElasticModel, parts: Any) -> None:
    policies, _, requests = parts
    scenes = requests.evaluation_scenes("intent", 2, 0)
    tlm = FixedReader(level=0.5, prompt_ratio=0.6, levels=RATIOS)
    slos = {str(slo): slo for slo in APPS.values()}
    by_slo: dict[str, dict[str, Any]] = {}
    for row in policies.accuracy(model, tlm, scenes, slos):
        by_slo.setdefault(row["slo"], {})[row["policy"]] = row
    assert len(by_slo) == 6
    for rows in by_slo.values():
        assert set(rows) == set(policies.POLICIES)
        best = rows["oracle"]["accuracy"]
        assert best >= rows["random feasible"]["accuracy"]
        assert best >= rows["orchestrated"]["accuracy"]
    whole = by_slo["<100%,100%>"]
    assert whole["model only"]["level"] == whole["orchestrated"]["level"] == 1.0
    assert by_slo["<60%,80%>"]["prompt only"]["accuracy_in_slo"] == 0
    assert by_slo["<60%,80%>"]["prompt only"]["prompt_ratio"] < 0.6


def test_attainment_is_counted_before_and_after_the_core_is_taken(
    model: ElasticModel, parts: Any
) -> None:
    _, measured, requests = parts
    scenes = requests.evaluation_scenes("intent", 3, 0)

    def open_one() -> Orchestrator:
        latency = OnlineLatency(make_latency(RATIOS, slowness=1000))
        return Orchestrator(model, latency, FixedReader(levels=RATIOS))

    rows = measured.attainment(open_one, scenes, 6)
    runs = {row["run"]: row for row in rows if row["part"] == "timed"}
    assert [row["requests"] for row in runs.values()] == [6, 6, 3, 3]
    assert runs["idle"]["feasible"] == runs["idle"]["attainment"] * 6 == 6
    assert any(row["part"] == "errors" and row["side"] == "ttft" for row in rows)


@pytest.mark.slow
def test_the_whole_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from pliant.tlm.install import install_tlm
    from pliant.tlm.training.build import fresh_network
    from pliant.tlm.training.export import write_tlm

    monkeypatch.setenv("PLIANT_CACHE", str(tmp_path / "cache"))
    bundle = make_tiny_bundle(tmp_path / "tiny", context=2048)
    write_tlm(tmp_path / "tlm.gguf", fresh_network(bundle))
    install_tlm(bundle.path, tmp_path / "tlm.gguf")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--bundle", bundle.path, "--quick", "--rows", "1"]
        + ["--requests", "8", "--json", tmp_path / "out.json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "oracle" in done.stdout and "errors" in done.stdout
    assert len(json.loads((tmp_path / "out.json").read_text())["claims"]) == 7


def test_a_bundle_without_a_tlm_is_refused(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    done = subprocess.run(
        [sys.executable, SCRIPT, "--bundle", bundle.path, "--quick"], capture_output=True, text=True
    )
    assert done.returncode == 1 and "has no TLM" in done.stderr
