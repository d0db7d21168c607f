from typing import Any

import pytest

import pliant
from support.fake_text_model import WORDS, FakeTextModel
from support.synthetic_latency import make_latency


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeTextModel:
    fake = FakeTextModel(lambda messages, level: WORDS)
    monkeypatch.setattr(pliant, "load", lambda source, options: fake, raising=False)
    calibrations = []

    def calibrated(_model: Any, before_calibration: Any) -> Any:
        calibrations.append(_model)
        assert len(calibrations) == 1
        before_calibration(15.0)
        return make_latency()

    monkeypatch.setattr("pliant.cli.chat.load_or_calibrate", calibrated)
    return fake
