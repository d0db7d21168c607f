"""A training's state on disk."""

from pathlib import Path

import pytest
import torch

from pliant.errors import TrainingError
from pliant.training.checkpoint import TrainState, load_state, save_state

STATE = TrainState(7, {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0)})


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "level-0.5.safetensors"
    save_state(path, TrainState(1, {"a": torch.ones(1)}), "this one")
    save_state(path, STATE, "this one")
    loaded = load_state(path, "this one")
    assert loaded is not None
    assert loaded.step == 7
    assert loaded.tensors.keys() == STATE.tensors.keys()
    assert torch.equal(loaded.tensors["a"], STATE.tensors["a"])
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_what_is_damaged_or_of_another_training_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "level.safetensors"
    assert load_state(path, "this one") is None
    save_state(path, STATE, "this one")
    assert load_state(path, "another") is None
    whole = path.read_bytes()
    for damaged in (b"", whole[:-4], b"\xff" * 64):
        path.write_bytes(damaged)
        assert load_state(path, "this one") is None


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"checkpoint .* cannot be written"):
        save_state(tmp_path / "file" / "level.safetensors", STATE, "this one")
