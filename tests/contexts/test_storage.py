import json
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.contexts import measure_storage
from pliant.contexts.measure_storage import DEFAULT_PROFILE, storage_profile
from pliant.contexts.storage import Disk, EmulatedDisk, StorageProfile, parse_storage
from pliant.errors import RequestError


@pytest.mark.parametrize(
    ("text", "bandwidth", "latency_s"),
    [
        ("200MB/s,100us", 200e6, 100e-6),
        ("1.5GB/s, 20µs", 1.5e9, 20e-6),
        (" 40 MB/s , 1 ms ", 40e6, 1e-3),
        ("512KiB/s,0.5s", 512 * 1024, 0.5),
        ("512kB/s,800ns", 512e3, 800e-9),
        ("2GiB/s,0us", 2 << 30, 0.0),
    ],
)
def test_storage_is_written_as_people_do(text: str, bandwidth: float, latency_s: float) -> None:
    profile = parse_storage(text)
    assert profile.bandwidth == pytest.approx(bandwidth)
    assert profile.latency_s == pytest.approx(latency_s)


@pytest.mark.parametrize(
    "text",
    ["", "200MB/s", "200MB,100us", "200MB/s;100us", "-1MB/s,1us", "0MB/s,1us", "1MB/s,11s",
     "infMB/s,1us", "1MB/s,nanus", "1e9MB/s,1us", "1MB/s,1us,1us"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="storage '"):
        parse_storage(text)


@given(st.text(max_size=30))
def test_no_text_breaks_the_parser(text: str) -> None:
    with suppress(RequestError):
        assert parse_storage(text).bandwidth > 0


def test_a_profile_is_a_line() -> None:
    profile = StorageProfile(bandwidth=100.0, latency_s=0.5)
    assert profile.read_s(200) == pytest.approx(2.5)
    assert profile.read_s(200, num_reads=4) == pytest.approx(4.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 400)
    return path


def test_disks_read_what_is_there(file: Path) -> None:
    with file.open("rb") as opened:
        for disk in (Disk(), EmulatedDisk(StorageProfile(1e9, 0.0))):
            assert bytes(disk.read(opened.fileno(), 250, 10)) == bytes(
                [250, 251, 252, 253, 254, 255, 0, 1, 2, 3]
            )
            assert len(disk.read(opened.fileno(), 102_390, 100)) == 10
            assert len(disk.read(opened.fileno(), 200_000, 100)) == 0


def test_emulated_reads_take_as_long_as_the_device_would(file: Path) -> None:
    profile = StorageProfile(bandwidth=2e6, latency_s=0.01)
    disk = EmulatedDisk(profile)
    with file.open("rb") as opened:
        begin = time.monotonic()
        for _ in range(2):
            disk.read(opened.fileno(), 0, 50_000)
        assert time.monotonic() - begin >= profile.read_s(100_000, num_reads=2)


def test_reads_at_the_same_time_share_the_bandwidth_and_not_the_latency(file: Path) -> None:
    disk = EmulatedDisk(StorageProfile(bandwidth=1e6, latency_s=0.1))
    with file.open("rb") as opened:
        threads = [
            threading.Thread(target=disk.read, args=(opened.fileno(), 0, 50_000)) for _ in range(4)
        ]
        begin = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - begin
    assert took >= 0.1 + 4 * 0.05


def test_storage_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLIANT_CACHE", str(tmp_path / "cache"))
    profile = storage_profile(tmp_path)
    assert profile.bandwidth > 1e6 and 0 < profile.latency_s < 1
    assert list(tmp_path.iterdir()) == [tmp_path / "cache"]
    monkeypatch.setattr(measure_storage, "measure_storage", lambda folder: pytest.fail("again"))
    assert storage_profile(tmp_path) == profile


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "[" * 3000, '{"format": 1, "bandwidth": "x", "latency_s": 1}']
)
def test_a_damaged_measurement_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("PLIANT_CACHE", str(tmp_path / "cache"))
    measured = StorageProfile(5e6, 0.5)
    monkeypatch.setattr(measure_storage, "measure_storage", lambda folder: measured)
    storage_profile(tmp_path)
    [path] = (tmp_path / "cache" / "storage").iterdir()
    path.write_text(content)
    assert storage_profile(tmp_path) == measured
    assert json.loads(path.read_text())["bandwidth"] == 5e6
    path.write_text(json.dumps({"format": 1, "bandwidth": -1.0, "latency_s": 0.1}))
    assert storage_profile(tmp_path) == measured


def test_what_cannot_be_measured_is_assumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLIANT_CACHE", str(tmp_path / "cache"))
    assert storage_profile(tmp_path / "nowhere") == DEFAULT_PROFILE
    (tmp_path / "file").touch()
    assert storage_profile(tmp_path / "file") == DEFAULT_PROFILE
