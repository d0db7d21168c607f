"""The governor against a process that really spins."""

import multiprocessing
import time

import psutil
import pytest

from pliant.engine.threads import ThreadGovernor, physical_cores


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
