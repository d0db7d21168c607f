"""An orchestrator with what the bundle and the device bring."""

from pathlib import Path

import pytest

from pliant import EngineOptions, load
from pliant.slo import Slo, open_orchestrator
from pliant.tlm.install import install_tlm
from pliant.tlm.training.build import fresh_network
from pliant.tlm.training.export import write_tlm
from support.tiny_bundle import make_tiny_bundle

WORDS = "the message from the station says that all trains are late because of the weather and "
PROMPT = [{"role": "user", "content": WORDS * 4 + "\nWhat does the message say?"}]


def test_a_bundles_own_tlm_is_opened_timed_and_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLIANT_CACHE", str(tmp_path / "cache"))
    bundle = make_tiny_bundle(tmp_path / "tiny", context=512)
    write_tlm(tmp_path / "tlm.gguf", fresh_network(bundle))
    install_tlm(bundle.path, tmp_path / "tlm.gguf")
    with (
        load(bundle.path, EngineOptions(threads=1)) as model,
        open_orchestrator(model, budget_s=1.0) as orchestrator,
    ):
        base = orchestrator.latency.base
        assert base.reading.ms(100) > 0 < base.compressing.ms(100)
        answer = orchestrator.answer(PROMPT, Slo(ttft_ms=1e5), max_tokens=4, compression=0.4)
        assert answer.decision.reading is not None
        assert sum(answer.decision.reading.levels) == pytest.approx(1)
        assert answer.decision.prompt_ratio <= 0.4
