"""kill -9 at random moments under load: every acknowledged token is there, and all is clean."""

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pliant.contexts.journal import Journal
from pliant.contexts.lock import FolderLock
from pliant.contexts.store import Store
from pliant.contexts.verify import verify
from pliant.errors import ChunkMissingError
from support import crash_worker
from support.stored_chunks import make_chunk, make_key, whole


class Acknowledged:
    """What a killed worker has said that it did."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[int]] = {}
        self.maybe_deleted: set[str] = set()
        self.puts = 0

    def add(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            context = line.get("context", "")
            match line["op"]:
                case "create":
                    self.tokens[context] = []
                case "fork":
                    self.tokens[context] = list(self.tokens[line["parent"]])
                case "append":
                    self.tokens[context] += line["tokens"]
                case "deleting":
                    self.maybe_deleted.add(context)
                case "delete":
                    del self.tokens[context]
                case "put":
                    self.puts += 1


def run_and_kill(folder: Path, seed: int, seconds: float) -> list[dict[str, Any]]:
    """Lines of a worker that was killed so many seconds after it began to work."""
    command = [sys.executable, crash_worker.__file__, str(folder), str(seed)]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as worker:
        assert worker.stdout is not None
        first = worker.stdout.readline()
        timer = time.monotonic() + seconds
        lines = [first]
        while time.monotonic() < timer:
            lines.append(worker.stdout.readline())
        worker.kill()
        lines += worker.stdout.readlines()
    assert worker.returncode == -9
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def check(folder: Path, acknowledged: Acknowledged) -> None:
    with (
        FolderLock(folder),
        Journal(folder) as journal,
        Store(folder, quota_bytes=crash_worker.QUOTA_BYTES) as store,
    ):
        report = verify(journal, store)
        assert report.is_clean, report.problems
        assert acknowledged.tokens.keys() - journal.ids() <= acknowledged.maybe_deleted
        for context in acknowledged.tokens.keys() & journal.ids():
            tokens = list(journal.history(context).tokens)
            expected = acknowledged.tokens[context]
            assert tokens[: len(expected)] == expected
            assert len(tokens) - len(expected) <= 200  # A call that was not acknowledged yet.
            acknowledged.tokens[context] = tokens
        for context in acknowledged.tokens.keys() - journal.ids():
            del acknowledged.tokens[context]
        assert store.stat().disk_bytes <= crash_worker.QUOTA_BYTES
        for number in range(0, 1000, 7):
            try:
                stored = store.read(make_key(number))
                chunk = make_chunk(number, sections=crash_worker.SECTIONS)
                assert whole(stored) == chunk.payload
            except ChunkMissingError:
                pass
        assert store.stat().corrupt == 0


def crash_rounds(folder: Path, rounds: int) -> Acknowledged:
    acknowledged, source = Acknowledged(), random.Random(rounds)
    for seed in range(rounds):
        acknowledged.add(run_and_kill(folder, seed, source.uniform(0.0, 0.3)))
        check(folder, acknowledged)
    return acknowledged


def test_ten_kills(tmp_path: Path) -> None:
    acknowledged = crash_rounds(tmp_path / "contexts", 10)
    assert acknowledged.puts > 10
    assert sum(map(len, acknowledged.tokens.values())) > 1000


@pytest.mark.slow
def test_two_hundred_kills(tmp_path: Path) -> None:
    crash_rounds(tmp_path / "contexts", 200)


def test_a_check_that_fails_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "contexts"
    acknowledged = Acknowledged()
    acknowledged.add(run_and_kill(folder, 1, 0.1))
    shutil.rmtree(folder / "kv")
    check(folder, acknowledged)
    context = next(iter(acknowledged.tokens))
    acknowledged.tokens[context].append(1)
    with pytest.raises(AssertionError):
        check(folder, acknowledged)
