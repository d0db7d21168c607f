"""A run that is killed goes on; what belongs to other inputs is never taken."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pliant.elastify import ElastifyOptions, elastify
from pliant.elastify.report import measure
from pliant.elastify.report.data import read_report
from pliant.elastify.work import WorkFolder
from pliant.errors import BundleError, ElastifyError
from support.tiny_hf import make_folder

STEPS = ("check of the weights", "activations", "anchor layers", "importance of units")
STEPS += ("export", "widths of layers", "uniform plans", "global plans")
STEPS += ("reference logits", "verification", "perplexity of the levels")
SMALL: dict[str, Any] = {"windows": 4, "window_tokens": 48, "targets": (0.5, 0.8)}
SMALL["importance"] = "taylor"

# Ends itself, as by kill -9, before the last item of the step.
PROGRAM = """
import os, signal, sys
from pliant.elastify import ElastifyOptions, elastify
source, out, calibration, last = sys.argv[1:]
def track(items, what, total):
    for index, item in enumerate(items):
        if what == last and index == total - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item
options = ElastifyOptions(windows=4, window_tokens=48, targets=(0.5, 0.8), importance="taylor")
elastify(source, out, calibration=calibration, options=options, track=track)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "source", intermediate_size=256)


def run(source: Path, out: Path, calibration: Path, **options: Any) -> tuple[Any, list[str]]:
    """The bundle, and the steps that were done for it."""
    done: list[str] = []

    def track(items: Any, what: str, total: int) -> Any:
        done.append(what)
        return items

    chosen = ElastifyOptions(**SMALL, **options)
    return elastify(source, out, calibration=calibration, options=chosen, track=track), done


@pytest.mark.parametrize("last", ["anchor layers", "export"])
def test_a_killed_run_goes_on_where_it_was(
    source: Path, calibration_file: Path, tmp_path: Path, last: str
) -> None:
    out = tmp_path / "elastic"
    arguments = [str(source), str(out), str(calibration_file), last]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], env=environment, timeout=100
    )
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    work = tmp_path / ".elastic.work"
    assert work.stat().st_mode & 0o077 == 0
    bundle, done = run(source, out, calibration_file)
    finished = STEPS[1 : STEPS.index(last)]
    assert not set(finished) & set(done)
    assert set(STEPS[STEPS.index(last) :]) <= set(done)
    assert not work.exists()
    whole, steps = run(source, tmp_path / "again" / "elastic", calibration_file)
    assert tuple(steps) == STEPS
    assert (out / "model.gguf").read_bytes() == (whole.path / "model.gguf").read_bytes()


def test_measured_levels_are_not_measured_again(
    source: Path, calibration_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    perplexity, measured = measure._perplexity, []

    def counted(model: Any, ratio: float, windows: Any) -> float:
        if len(measured) == 2:
            measured.append(None)
            raise KeyboardInterrupt
        measured.append(ratio)
        return perplexity(model, ratio, windows)

    monkeypatch.setattr(measure, "_perplexity", counted)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "elastic", calibration_file)
    bundle, _ = run(source, tmp_path / "elastic", calibration_file)
    assert measured == [0.5, 0.8, None, 1.0]
    assert len(read_report(bundle.path / "report.json").levels) == 3


def test_other_inputs_are_other_work(
    source: Path, calibration_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkFolder, "remove", lambda work: None)
    out = tmp_path / "elastic"
    run(source, out, calibration_file)
    _, done = run(source, out, calibration_file, quantization="Q4_0")
    assert done == ["check of the weights", "export", *STEPS[-3:]]
    calibration_file.write_text(calibration_file.read_text()[::-1])
    _, done = run(source, out, calibration_file)
    assert "importance of units" in done


def test_nothing_is_left_of_a_refused_run(
    source: Path, calibration_file: Path, tmp_path: Path
) -> None:
    (source / "model.safetensors").write_bytes(b"")
    with pytest.raises(ElastifyError, match="model.safetensors is cut short"):
        run(source, tmp_path / "elastic", calibration_file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calibration.txt", "source"]


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "deep" / "out", {"a": 1})
    assert work.path == tmp_path / ".out.work"

    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        work.file("x.txt", {}, fail)
    assert list(work.path.iterdir()) == []
    arrays = work.arrays("step", {"b": 2}, lambda: {"values": np.arange(3)})
    assert arrays["values"].tolist() == [0, 1, 2]
    again = work.arrays("step", {"b": 2}, lambda: pytest.fail("made twice"))
    assert again["values"].tolist() == [0, 1, 2]
    other = WorkFolder(tmp_path / "out", {"a": 2}).arrays("step", {"b": 2}, dict)
    assert other == {}


def test_a_damaged_step_is_removed(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "out", {})
    work.arrays("step", {}, lambda: {"values": np.arange(300)})
    (path,) = work.path.iterdir()
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(BundleError, match="was damaged and is removed; run the command again"):
        work.arrays("step", {}, dict)
    assert work.arrays("step", {}, lambda: {"values": np.arange(2)})["values"].tolist() == [0, 1]
