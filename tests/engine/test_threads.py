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


@pytest.mark.skipif((psutil.cpu_count() or 1) < 2, reason="needs a core to give up")
def test_a_busy_process_takes_threads_away() -> None:
    cores = psutil.cpu_count() or 1
    governor = ThreadGovernor(limit=cores)
    assert governor.current() == cores
    spinners = [multiprocessing.get_context("spawn").Process(target=spin) for _ in range(cores)]
    for spinner in spinners:
        spinner.start()
    try:
        deadline = time.monotonic() + 20
        while governor.current() == cores and time.monotonic() < deadline:
            time.sleep(0.2)
        assert 1 <= governor.current() < cores
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.join()


def test_own_work_does_not_take_threads_away() -> None:
    governor = ThreadGovernor(limit=1)
    governor.current()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        assert governor.current() == 1
