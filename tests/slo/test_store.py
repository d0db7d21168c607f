import json
import logging
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.slo import load_or_calibrate, store
from support.synthetic_latency import make_latency

IDENTITY = {"model": "ab", "threads": 2}
LATENCY = make_latency()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet_machine: None) -> None:
    monkeypatch.setenv("PLIANT_CACHE", str(tmp_path))


@pytest.fixture
def calibrations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Calibrations made, each by a stub."""
    made: list[Any] = []

    def stub(model: Any, budget_s: float, tlm: Any) -> Any:
        made.append(model)
        return LATENCY

    monkeypatch.setattr(store, "calibrate", stub)
    return made


@pytest.fixture
def model(fake_model: Any) -> Any:
    fake_model.engine.threads = 2
    fake_model.engine.options = SimpleNamespace(layout="auto", kv_type="f16")
    return fake_model


def test_a_second_start_reads_what_the_first_measured(
    model: Any, calibrations: list[Any], tmp_path: Path
) -> None:
    told: list[float] = []
    for _ in range(2):
        assert load_or_calibrate(model, before_calibration=told.append) == LATENCY
    assert len(calibrations) == 1 and told == [15.0]
    assert [path.suffix for path in (tmp_path / "latency").iterdir()] == [".json"]


@pytest.mark.parametrize("what", ["threads", "model", "levels"])
def test_another_setting_is_measured_anew(model: Any, calibrations: list[Any], what: str) -> None:
    load_or_calibrate(model)
    if what == "threads":
        model.engine.threads = 1
    elif what == "model":
        model.bundle.sha256 = "cd" * 32
    else:
        model.levels = model.levels[1:]
    load_or_calibrate(model)
    assert len(calibrations) == 2


def test_a_damaged_file_is_measured_anew_and_replaced(
    model: Any, calibrations: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_or_calibrate(model)
    (path,) = (tmp_path / "latency").iterdir()
    path.write_text(path.read_text().replace("0.5", "-0.5"))
    with caplog.at_level(logging.WARNING):
        assert load_or_calibrate(model) == LATENCY
    assert "measuring again" in caplog.text
    load_or_calibrate(model)
    assert len(calibrations) == 2


def test_a_cache_folder_that_cannot_be_written_is_no_error(
    model: Any, calibrations: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLIANT_CACHE", str(tmp_path / "file"))
    assert load_or_calibrate(model) == LATENCY


def test_what_was_measured_on_a_busy_machine_is_used_but_not_kept(
    model: Any,
    calibrations: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model.engine.threads = store.BusyCores().cores
    monkeypatch.setattr("pliant.slo.store.BusyCores.others", lambda self: 0.9)
    assert load_or_calibrate(model) == LATENCY
    assert "busy meanwhile" in caplog.text
    model.engine.threads = 1
    monkeypatch.setattr("pliant.slo.store.BusyCores.others", lambda self: self.cores - 1.0)
    for _ in range(2):
        load_or_calibrate(model)
    assert len(calibrations) == 2


def test_busy_cores_are_those_of_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # The real `others`, on times that are given.
    now = SimpleNamespace(wall=100.0, user=10.0, nice=5.0, system=1.0, own=3.0)
    monkeypatch.setattr(store.time, "monotonic", lambda: now.wall)
    monkeypatch.setattr(store.psutil, "cpu_times", lambda: now)
    process = SimpleNamespace(cpu_times=lambda: SimpleNamespace(user=now.own, system=0.0))
    monkeypatch.setattr(store.psutil, "Process", lambda: process)
    load = store.BusyCores()
    now.wall, now.user, now.nice, now.system, now.own = 110.0, 24.0, 10.0, 2.0, 18.0
    assert load.others() == pytest.approx(((14 + 5 + 1) - 15) / 10)


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "new" / "latency.json"
    with pytest.raises(TypeError):
        store.write(path, {"model": object()}, LATENCY)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]" * 10,
        b"[" * 100_000,
        b'{"identity": {}, "latency": {}}',
        b"9" * 10_000,
        b" " * (2 << 20),
    ],
)
def test_hostile_files_are_not_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "latency.json"
    path.write_bytes(content)
    assert store.read(path, IDENTITY) is None


def test_a_folder_in_the_files_place_is_not_read(tmp_path: Path) -> None:
    assert store.read(tmp_path, IDENTITY) is None


@given(seed=st.integers(0, 2**32 - 1), truncate=st.booleans())
def test_mutated_files_are_refused_or_still_valid(
    seed: int, truncate: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("mutated") / "latency.json"
    store.write(path, IDENTITY, LATENCY)
    content = bytearray(path.read_bytes())
    source = random.Random(seed)
    if truncate:
        del content[source.randrange(len(content)) :]
    else:
        for _ in range(source.randint(1, 8)):
            content[source.randrange(len(content))] = source.randrange(256)
    path.write_bytes(content)
    latency = store.read(path, IDENTITY)
    if latency is not None:
        assert json.loads(content)["identity"] == IDENTITY
        assert latency.ratios[-1] == 1.0
        assert all(latency.predict_ttft(ratio, 100) > 0 for ratio in latency.ratios)


def test_the_processor_has_a_name() -> None:
    assert store.cpu_model()
