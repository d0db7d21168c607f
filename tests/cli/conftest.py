from typing import Any

import pytest

import pliant
from pliant.slo import OnlineLatency, Orchestrator
from support.fake_text_model import LATENCY, WORDS, FakeTextModel


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeTextModel:
    fake = FakeTextModel(lambda messages, level: WORDS)
    monkeypatch.setattr(pliant, "load", lambda source, options: fake, raising=False)
    opened = []

    def calibrated(model: Any, before_calibration: Any) -> Orchestrator:
        opened.append(model)
        assert len(opened) == 1
        before_calibration(15.0)
        return Orchestrator(model, OnlineLatency(LATENCY))

    monkeypatch.setattr("pliant.cli.chat.open_orchestrator", calibrated)
    return fake
