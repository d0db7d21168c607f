"""Killed at any moment: what was acknowledged is there, and nothing is damaged."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pliant.bundle import Bundle
from pliant.contexts.journal import Journal
from pliant.contexts.lock import FolderLock
from pliant.contexts.store import Store
from pliant.contexts.verify import verify
from support.calling_worker import checksum

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("kills", [1, pytest.param(200, marks=pytest.mark.slow)])
def test_kill_under_load(context_bundle: Bundle, tmp_path: Path, kills: int) -> None:
    acknowledged: dict[str, tuple[int, int]] = {}
    for _ in range(kills):
        acknowledged.update(run_and_kill(context_bundle.path, tmp_path))
        with FolderLock(tmp_path), Journal(tmp_path) as journal, Store(tmp_path) as store:
            store.retain(journal.ids())
            assert verify(journal, store).problems == ()
            alive = journal.ids()
            for context, (length, expected) in acknowledged.items():
                if context in alive:
                    tokens = journal.history(context).tokens
                    assert len(tokens) >= length
                    # A call may have been journaled that was not acknowledged any more.
                    assert len(tokens) > length or checksum(tokens) == expected
    assert acknowledged


def run_and_kill(bundle: Path, root: Path) -> dict[str, tuple[int, int]]:
    """What a worker acknowledged before it was killed, some time after its first call."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "support.calling_worker", str(bundle), str(root)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
    )
    assert worker.stdout is not None
    lines = [worker.stdout.readline()]
    time.sleep(random.random() * 0.5)
    worker.kill()
    lines += worker.stdout.readlines()
    worker.stdout.close()
    worker.wait()
    # The last line may be half of one.
    rows = [line.split() for line in lines if line.endswith("\n")]
    return {row[0]: (int(row[1]), int(row[2])) for row in rows}
