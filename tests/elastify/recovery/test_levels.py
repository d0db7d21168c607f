"""`pliant elastify` with recovery: adapters in the bundle, and what is said about them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pliant.bundle import Adapter, Architecture, GgufFile, check
from pliant.elastify import ElastifyOptions, elastify
from pliant.elastify.export import write_gguf
from pliant.elastify.levels import choose_levels
from pliant.elastify.recovery import recover
from pliant.elastify.recovery.data import Example, RecoveryData
from pliant.elastify.recovery.levels import adapt_levels
from pliant.elastify.recovery.options import Recovery, RecoveryOptions
from pliant.elastify.recovery.recover import RecoveredLevel, recover_levels
from pliant.elastify.recovery.trainee import Trainee
from pliant.elastify.vocabulary import read_vocabulary
from pliant.errors import ElastifyError
from support.tiny_gguf import CORPUS
from support.tiny_hf import make_folder, make_model

SMALL: dict[str, Any] = {"windows": 4, "window_tokens": 48, "targets": (0.5, 0.8)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "source", num_hidden_layers=3, intermediate_size=256)


def recovery(folder: Path, **options: Any) -> Recovery:
    path = folder / "recovery.jsonl"
    rows = [{"prompt": line, "answer": line} for line in CORPUS * 4]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    defaults = {"rank": 4, "loss": "lm", "steps": 6, "batch_tokens": 128, "learning_rate": 1e-2}
    return Recovery(path, RecoveryOptions(**{**defaults, **options}))


def test_levels_get_adapters_that_lower_the_loss(
    source: Path, calibration_file: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    asked = recovery(tmp_path)
    options = ElastifyOptions(recovery=asked, **SMALL)
    out = tmp_path / "elastic"
    bundle = elastify(
        source, out, calibration=calibration_file, options=options, report=lines.append
    )
    assert check(bundle) == []
    *small, full = bundle.levels
    assert full.adapter is None
    assert [level.adapter for level in small] == ["adapter-0.5.gguf", "adapter-0.8.gguf"]
    for level in small:
        adapter = Adapter.open(out / str(level.adapter))
        adapter.check_fits(bundle.architecture, level.plan)
        assert adapter.scale == asked.options.alpha / asked.options.rank
        assert level.cost <= level.ratio
    told = json.loads((out / "pliant.json").read_text())["provenance"]["recovery"]
    assert told["options"] == asked.options.to_json()
    for row in told["levels"]:
        assert row["recovered_loss"] < row["bare_loss"]
        assert len(row["training_losses"]) == asked.options.steps
    assert sum(line.startswith("recovery of level") for line in lines) == 2
    assert {entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")} == set()


def test_a_killed_run_goes_on_and_gives_the_same_bundle(
    source: Path, calibration_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recovery(tmp_path)
    options = ElastifyOptions(recovery=asked, **SMALL)
    whole = elastify(source, tmp_path / "whole", calibration=calibration_file, options=options)
    monkeypatch.setattr(recover, "CHECKPOINT_SECONDS", 0.0)
    update = Trainee.update

    def killed_at_four(self: Trainee, *arguments: Any) -> None:
        if self.step == 4:
            raise KeyboardInterrupt
        update(self, *arguments)

    out = tmp_path / "cut"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainee, "update", killed_at_four)
        elastify(source, out, calibration=calibration_file, options=options)
    assert not out.exists()
    assert len(list((tmp_path / ".cut.work" / "recovery").iterdir())) == 2
    again = elastify(source, out, calibration=calibration_file, options=options)
    for level in whole.levels[:-1]:
        name = str(level.adapter)
        assert (whole.path / name).read_bytes() == (again.path / name).read_bytes()


def test_an_adapter_that_does_not_help_is_left_out(tmp_path: Path) -> None:
    model = make_model()
    write_gguf(
        model, read_vocabulary(make_folder(tmp_path / "hf"), 320), tmp_path / "m", "F16", "m"
    )
    architecture = Architecture.from_gguf(GgufFile.open(tmp_path / "m"))
    levels = choose_levels(architecture, [], targets=(0.6, 0.8)).levels
    weights = np.array([0, 1, 1, 1], np.float32)
    examples = tuple(Example(np.arange(start, start + 4), weights) for start in (6, 10, 14))
    data = RecoveryData(examples[:2], examples[2:], "data")
    options = RecoveryOptions(rank=2, steps=1)

    def train(*arguments: Any, **settings: Any) -> tuple[RecoveredLevel, ...]:
        worse, better = recover_levels(*arguments, **settings)
        return (
            replace(worse, recovered_loss=worse.bare_loss),
            replace(better, recovered_loss=better.bare_loss - 1e-6),
        )

    lines: list[str] = []
    adapted = adapt_levels(
        model, architecture, levels, data, options, tmp_path,
        train=train, report=lines.append,
    )  # fmt: skip
    assert [level.adapter for level in adapted.levels] == [None, "adapter-0.8.gguf", None]
    assert adapted.files == {"adapter-0.8.gguf": tmp_path / "adapter-0.8.gguf"}
    assert adapted.levels[0] == levels[0]
    assert adapted.levels[1].cost > levels[1].cost
    assert sum("level 0.6 keeps no adapter" in line for line in lines) == 1


def test_data_is_read_before_any_work(source: Path, calibration_file: Path, tmp_path: Path) -> None:
    options = ElastifyOptions(recovery=Recovery(tmp_path / "nowhere.jsonl"))
    with pytest.raises(ElastifyError, match=r"nowhere\.jsonl cannot be read"):
        elastify(source, tmp_path / "e", calibration=tmp_path / "none", options=options)
