"""Labels of whole files: resumed after a kill, refused with a reason, the same on a cluster."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pliant.bundle import Bundle
from pliant.errors import BundleError, LabelError
from pliant.tlm.labels import label
from pliant.tlm.labels.label import Head, label_tasks
from pliant.tlm.labels.rows import read_decision_rows, read_score_rows
from support.tiny_bundle import make_tiny_bundle
from support.tiny_tasks import write_tasks

READ = {"score": read_score_rows, "decision": read_decision_rows}
KILLED = """
import sys
from pathlib import Path
from pliant.tlm.labels import label
label.MAX_SLOTS = 2
label.label_tasks(*map(Path, sys.argv[1:4]), sys.argv[4])
"""


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label, "MAX_SLOTS", 2)


@pytest.mark.parametrize("head", ["score", "decision"])
def test_what_was_cut_off_is_made_again(
    bundle: Bundle, tasks: Path, tmp_path: Path, head: Head
) -> None:
    done = label_tasks(bundle.path, tasks, tmp_path, head)
    assert (done.labelled, done.skipped) == (5, 0)
    whole = done.path.read_bytes()
    assert len(list(READ[head](done.path))) == 5
    lines = whole.splitlines(keepends=True)
    for num_lines in (0, 3, 5):
        done.path.write_bytes(b"".join(lines[:num_lines]) + b'{"te' * (num_lines % 2))
        label_tasks(bundle.path, tasks, tmp_path, head)
        assert done.path.read_bytes() == whole


def test_killed_and_run_again(bundle: Bundle, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "many.jsonl", count=24)
    expected = label_tasks(bundle.path, tasks, tmp_path / "a", "decision").path
    arguments = [str(bundle.path), str(tasks), str(tmp_path / "b"), "decision"]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments])
    path = tmp_path / "b" / expected.name
    while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < 4):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 4 <= path.read_bytes().count(b"\n") < 24
    label_tasks(bundle.path, tasks, tmp_path / "b", "decision")
    assert path.read_bytes() == expected.read_bytes()


def test_other_tasks_are_not_mixed_in(bundle: Bundle, tasks: Path, tmp_path: Path) -> None:
    label_tasks(bundle.path, tasks, tmp_path, "score")
    other = write_tasks(tmp_path / "other.jsonl", count=2)
    with pytest.raises(LabelError, match="holds labels of other tasks"):
        label_tasks(bundle.path, other, tmp_path, "score")


def test_long_questions_are_left_out(bundle: Bundle, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks.jsonl", count=2)
    long = json.loads(tasks.read_text().splitlines()[0])
    long["messages"][1]["content"] = "on " * 500
    with tasks.open("a") as file:
        file.write(json.dumps(long) + "\n")
    done = label_tasks(bundle.path, tasks, tmp_path, "score")
    assert (done.labelled, done.skipped) == (2, 1)
    tasks.write_text(json.dumps(long))
    with pytest.raises(LabelError, match="none of the questions"):
        label_tasks(bundle.path, tasks, tmp_path / "b", "score")


def test_decisions_need_a_score_head(tasks: Path, tmp_path: Path) -> None:
    bare = make_tiny_bundle(tmp_path / "bare")
    with pytest.raises(BundleError, match="has no TLM to shorten the prompts with"):
        label_tasks(bare.path, tasks, tmp_path / "out", "decision")


@pytest.fixture
def address() -> Iterator[str]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    yield nodes.address
    nodes.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray leaves sockets and files to the interpreter
def test_a_cluster_makes_the_same_labels(
    bundle: Bundle, tasks: Path, tmp_path: Path, address: str
) -> None:
    os.environ.pop("RAY_ADDRESS", None)
    heads: tuple[Head, ...] = ("score", "decision")
    for head in heads:
        here = label_tasks(bundle.path, tasks, tmp_path / "here", head)
        there = label_tasks(bundle.path, tasks, tmp_path / "there", head, ray=address)
        assert here.path.read_bytes() == there.path.read_bytes()
    moved = tmp_path / "elsewhere"
    shutil.copytree(bundle.path, moved)
    label_tasks(moved, tasks, tmp_path / "moved", "score", ray=address)
