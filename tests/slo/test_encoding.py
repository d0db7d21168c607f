from pathlib import Path
from typing import Any

import pytest

import pliant
from pliant.slo import load_or_calibrate
from pliant.slo.encoding import measure_encoding
from pliant.slo.latency import PREFILL_CHUNK
from support.tiny_bundle import make_tiny_bundle


@pytest.mark.parametrize("template", ["has", "lacks"])
def test_what_a_real_tokenizer_takes(tmp_path: Path, template: str) -> None:
    shape: dict[str, Any] = {} if template == "has" else {"chat_template": None}
    bundle = make_tiny_bundle(tmp_path / "tiny", **shape)
    with pliant.load(bundle.path) as model:
        encoding = measure_encoding(model)
    assert encoding.request_ms >= 0 and encoding.token_ms >= 0
    assert encoding.request_ms + encoding.token_ms > 0


@pytest.mark.usefixtures("quiet_machine")
def test_a_real_model_is_calibrated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLIANT_CACHE", str(tmp_path / "cache"))
    bundle = make_tiny_bundle(tmp_path / "tiny")
    told: list[float] = []
    with pliant.load(bundle.path) as model:
        first = load_or_calibrate(model, 0.5, before_calibration=told.append)
        second = load_or_calibrate(model, before_calibration=told.append)
    assert first == second and told == [0.5]
    assert first.ratios == (0.3, 0.5, 1.0)
    assert all(first.predict_ttft(ratio, 100) > 0 for ratio in first.ratios)


def test_chunks_are_as_long_as_the_engine_takes_them() -> None:
    from pliant.engine.engine import MAX_BATCH

    assert PREFILL_CHUNK == MAX_BATCH
