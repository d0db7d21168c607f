"""`pliant tlm`: labels, training and evaluation from the command line."""

import json
from pathlib import Path

import pytest
import torch

from pliant.bundle import open_bundle
from pliant.cli import main
from pliant.cli.progress import steps
from pliant.tlm.labels.label import LabelledTasks
from support.tiny_bundle import make_tiny_bundle
from support.tiny_tasks import write_tasks


def test_from_tasks_to_an_evaluated_tlm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(1)
    bundle = str(make_tiny_bundle(tmp_path / "bundle").path)
    tasks = str(write_tasks(tmp_path / "tasks.jsonl", count=3))
    out = tmp_path / "labels"
    assert main(["tlm", "labels", bundle, "--tasks", tasks, "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out / 'score.jsonl'}\n"
    assert "3 questions labelled, 0 do not fit the context" in shown.err
    assert main(["tlm", "train", bundle, "--labels", str(out)]) == 0
    assert capsys.readouterr().out == f"{open_bundle(bundle).tlm_path}\n"
    decide = ["tlm", "labels", bundle, "--tasks", tasks, "--out", str(out), "--head", "decision"]
    assert main(decide) == 0
    assert capsys.readouterr().out == f"{out / 'decision.jsonl'}\n"
    assert main(["tlm", "train", bundle, "--labels", str(out)]) == 0
    capsys.readouterr()
    assert main(["tlm", "eval", bundle, "--tasks", tasks]) == 0
    shown = capsys.readouterr()
    assert "3 questions; right answers in %" in shown.out
    assert "oracle" in shown.out


def test_pairs_need_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "one two", "compressed_prompt": "two"}))
    out = tmp_path / "deep" / "labels"
    assert main(["tlm", "labels", "unused", "--pairs", str(pairs), "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out / 'score-pairs.jsonl'}\n"
    assert "1 texts labelled; left out: 0 with words of their own" in shown.err
    assert json.loads((out / "score-pairs.jsonl").read_text())["spans"][1] == [4, 7, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["labels", "nowhere", "--out", "labels"], "nothing to label: give --tasks FILE"),
        (["labels", "nowhere", "--out", "labels", "--tasks", "t"], "neither an installed bundle"),
        (["labels", "nowhere", "--out", "labels", "--pairs", "t"], "t cannot be read"),
        (["train", "nowhere", "--labels", "labels"], "neither an installed bundle"),
        (["eval", "nowhere", "--tasks", "t"], "neither an installed bundle"),
        (["eval", "pocket", "--tasks", "t"], "tasks file t cannot be read"),
        (["labels", "pocket", "--tasks", "/dev/zero", "--out", "l"], "it is not a file"),
        (["labels", "pocket", "--pairs", "/dev/zero", "--out", "l"], "it is not a file"),
        (["train", "pocket", "--labels", "l", "--seed", "9" * 30], "training: seed is 999"),
        (["train", "pocket", "--labels", "l"], "l has no score labels"),
    ],
)
def test_what_is_wrong_is_told(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tlm", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err


@pytest.mark.parametrize(
    ("ray", "address"),
    [([], None), (["--ray"], "auto"), (["--ray", "local"], "local"), (["--ray=h:1"], "h:1")],
)
def test_the_address_of_a_cluster_may_be_left_out(
    ray: list[str], address: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def fake(*_arguments: object, ray: str | None, **_options: object) -> LabelledTasks:
        asked.append(ray)
        return LabelledTasks(tmp_path, 0, 0)

    monkeypatch.setattr("pliant.tlm.labels.label.label_tasks", fake)
    assert main(["tlm", "labels", "b", *ray, "--tasks", "t", "--out", "o"]) == 0
    assert main(["tlm", "labels", "b", "--tasks", "t", "--out", "o", *ray]) == 0
    assert asked == [address, address]


def test_bars_of_a_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    with steps() as report:
        report("score head", 1, 2, 0.5)
        report("score head", 2, 2, 0.25)
    assert "score head" in capsys.readouterr().err
