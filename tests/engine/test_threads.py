"""The governor against a process that really spins."""

import multiprocessing
import time
from pathlib import Path

import psutil
import pytest

from pliant.engine.threads import FreeCores, ThreadGovernor, physical_cores


def spin() -> None:
    while True:
        pass


def test_cores_are_counted_within_what_the_process_may_use() -> None:
    assert 1 <= physical_cores() <= (psutil.cpu_count() or 1)


def run_passes(governor: ThreadGovernor, seconds: float) -> int:
    """Passes that keep this process busy for a while; the threads of the last one."""
    threads = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        threads = governor.begin()
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            pass
        governor.end()
    return threads


@pytest.fixture
def busy_processes():
    """As many spinning processes as there are cores."""
    context = multiprocessing.get_context("spawn")
    spinners = [context.Process(target=spin) for _ in range(psutil.cpu_count() or 1)]
    for spinner in spinners:
        spinner.start()
    time.sleep(1)
    yield
    for spinner in spinners:
        spinner.kill()
        spinner.join()


@pytest.mark.skipif((psutil.cpu_count() or 1) < 2, reason="needs a core to give up")
def test_a_busy_process_takes_threads_away(busy_processes: None) -> None:
    cores = psutil.cpu_count() or 1
    governor = ThreadGovernor(limit=cores)
    assert governor.begin() == cores
    assert 1 <= run_passes(governor, 2) < cores


@pytest.mark.skipif((psutil.cpu_count() or 1) < 2, reason="needs a core to give up")
def test_what_others_do_between_passes_does_not_count(busy_processes: None) -> None:
    cores = psutil.cpu_count() or 1
    governor = ThreadGovernor(limit=cores)
    for _ in range(3):
        time.sleep(0.3)
        assert governor.begin() == cores
        governor.end()


def test_own_work_does_not_take_threads_away() -> None:
    assert run_passes(ThreadGovernor(limit=1), 0.5) == 1


def test_free_cores_are_those_that_nothing_else_runs_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = psutil.cpu_count() or 1
    found = tmp_path / "loadavg"
    monkeypatch.setattr(FreeCores, "_LOAD", found)
    for running, free in ((1, cores), (2, max(1, cores - 1)), (cores + 5, 1)):
        found.write_text(f"0.10 0.20 0.30 {running}/400 1234\n")
        assert FreeCores().count() == free
    found.write_text("unknown")
    assert FreeCores().count() == cores
    found.unlink()
    assert FreeCores().count() == cores


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="the system does not tell")
def test_spinning_processes_leave_no_free_core(busy_processes) -> None:
    free = FreeCores()
    until = time.monotonic() + 20
    while free.count() > 1 and time.monotonic() < until:
        time.sleep(0.05)
    assert free.count() == 1
