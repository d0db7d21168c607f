import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pliant.bundle import GgufFile, check, open_bundle
from pliant.elastify import ElastifyOptions, elastify, forecast
from pliant.elastify.source import load_model, load_tokenizer
from pliant.elastify.submodel import logits, slice_model
from pliant.elastify.verify import (
    check_plans,
    check_tokens,
    expected_logits,
    reorder_difference,
)
from pliant.errors import BundleError, ElastifyError
from support.llama_reference import reference_logits
from support.tiny_hf import make_folder, write_tokenizer
from support.tiny_tasks import add_tiny_tlm

SMALL: dict[str, Any] = {"windows": 4, "window_tokens": 48}


def elastic(
    folder: Path,
    calibration: Path,
    out: str = "elastic",
    report: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Any:
    chosen = ElastifyOptions(**SMALL, **options)
    target = folder.parent / out
    return elastify(folder, target, calibration=calibration, options=chosen, report=report)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "source", num_hidden_layers=5, intermediate_size=256)


def provenance(folder: Path) -> Any:
    return json.loads((folder / "pliant.json").read_text())["provenance"]


@pytest.mark.parametrize("quantization", ["F16", "Q8_0", "Q4_0"])
def test_makes_a_sound_bundle(source: Path, calibration_file: Path, quantization: str) -> None:
    lines: list[str] = []
    bundle = elastic(source, calibration_file, quantization=quantization, report=lines.append)
    assert check(bundle) == []
    assert open_bundle(bundle.path).levels == bundle.levels
    assert len(bundle.levels) > 4
    told = provenance(bundle.path)
    assert told["quantization"] == quantization
    assert told["verification"]["reorder_difference"] <= 1e-4
    assert len(told["verification"]["levels"]) == len(bundle.levels)
    assert told["importance"] == "taylor"
    assert set(told["plans"]["losses"]) == {"uniform", "global"}
    assert len(told["anchors"]) == 1
    assert len(told["losses_without_layer"]) == 5
    assert set(told["source_sha256"]) == {"config.json", "model.safetensors"}
    assert any("anchor" in line for line in lines)


def test_the_full_level_is_the_original_for_llama_cpp(
    source: Path, calibration_file: Path, tokens: torch.Tensor
) -> None:
    bundle = elastic(source, calibration_file, quantization="F16")
    found = reference_logits(bundle.gguf.path, tokens.tolist())
    expected = logits(load_model(source), tokens[None])[0].numpy()
    assert np.abs(found - expected).max() < 3e-2


def test_the_same_input_gives_the_same_file(source: Path, calibration_file: Path) -> None:
    files = [elastic(source, calibration_file).path / "model.gguf" for _ in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_widths_are_whole_blocks(tmp_path: Path, calibration_file: Path) -> None:
    shape = {"hidden_size": 256, "intermediate_size": 1024, "head_dim": 64}
    bundle = elastic(make_folder(tmp_path / "wide", **shape), calibration_file, quantization="Q4_K")
    assert len(bundle.levels) > 2
    for layer in (layer for level in bundle.levels for layer in level.plan.layers):
        assert layer.ff % 256 == 0
        assert layer.heads * 64 % 256 == 0


def test_a_tlm_is_not_lost_without_a_word(source: Path, calibration_file: Path) -> None:
    lines: list[str] = []
    bundle = elastic(source, calibration_file, report=lines.append, targets=(0.6,))
    assert not any("TLM" in line for line in lines)
    add_tiny_tlm(bundle)
    planned = forecast(source, bundle.path, ElastifyOptions(**SMALL))
    assert any("run `pliant tlm labels`" in note for note in planned.notes)
    again = elastic(source, calibration_file, report=lines.append, targets=(0.8,))
    assert again.tlm_path is None
    assert [level.ratio for level in again.levels] == [0.8, 1.0]
    assert check(again) == []
    assert lines[-1].startswith(f"the TLM in {bundle.path} was made for the older bundle's levels")
    assert forecast(source, bundle.path, ElastifyOptions(**SMALL)).notes == planned.notes[:-1]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_sixteen_bit_weights(
    source: Path, calibration_file: Path, dtype: Any, tmp_path: Path
) -> None:
    load_model(source, "bf16").save_pretrained(source)
    bundle = elastic(source, calibration_file, quantization="F16", dtype=dtype, targets=(0.6,))
    told = provenance(bundle.path)
    assert told["verification"]["reorder_difference"] <= 1e-4
    assert all(level["relative_error"] < 0.02 for level in told["verification"]["levels"])


def test_the_number_of_anchors_can_be_chosen(source: Path, calibration_file: Path) -> None:
    bundle = elastic(source, calibration_file, anchors=2, targets=(0.6,))
    assert len(provenance(bundle.path)["anchors"]) == 2
    assert [level.ratio for level in bundle.levels] == [0.6, 1.0]


def test_a_context_shorter_than_a_window(tmp_path: Path, calibration_file: Path) -> None:
    source = make_folder(tmp_path / "short", max_position_embeddings=32)
    assert elastic(source, calibration_file).architecture.context_length == 32


def test_refuses_before_any_work(source: Path, calibration_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ElastifyError, match="'Q5_1' is not one of"):
        elastic(source, calibration_file, quantization="Q5_1")
    with pytest.raises(ElastifyError, match="'luck' is not one of"):
        elastic(source, calibration_file, importance="luck")
    with pytest.raises(ElastifyError, match="'deep' is not one of"):
        elastic(source, calibration_file, plan="deep")
    with pytest.raises(ElastifyError, match="calibration file"):
        elastic(source, tmp_path / "nowhere.txt")
    with pytest.raises(ElastifyError, match=r"config\.json is missing"):
        elastic(tmp_path / "nowhere", calibration_file)
    with pytest.raises(BundleError, match="not a bundle"):
        elastic(source, calibration_file, out=source.name)
    assert not (tmp_path / "elastic").exists()


def test_a_changed_model_is_found_out(
    source: Path, calibration_file: Path, tokens: torch.Tensor
) -> None:
    bundle = elastic(source, calibration_file, quantization="F16")
    other = load_model(source)  # not reordered: only its full level is the same
    full, half = bundle.levels[-1], bundle.level(0.5)
    reference = partial(expected_logits, other, tokens=tokens)
    check_plans(bundle, [full], reference, tokens, "F16")
    with pytest.raises(ElastifyError, match=r"level 0\.5 does not compute"):
        check_plans(bundle, [half], reference, tokens, "F16")
    before = logits(other, tokens[None])
    with pytest.raises(ElastifyError, match="reordering changed the model"):
        reorder_difference(before, logits(slice_model(other, half.plan), tokens[None]))
    with pytest.raises(ElastifyError, match="reordering changed the model"):
        reorder_difference(before, before * float("nan"))


def test_a_changed_tokenizer_is_found_out(
    source: Path, calibration_file: Path, tmp_path: Path
) -> None:
    path = elastic(source, calibration_file).path / "model.gguf"
    spec = json.loads((source / "tokenizer.json").read_text("utf-8"))
    tokenizer = load_tokenizer(source)
    tokens = torch.tensor(tokenizer("Turn on the wifi.\n\nAnna says: don't")["input_ids"])
    assert check_tokens(path, tokenizer, tokens) == 2
    spec["model"]["merges"] = []
    write_tokenizer(tmp_path / "other", spec)
    with pytest.raises(ElastifyError, match="splits this otherwise"):
        check_tokens(path, load_tokenizer(tmp_path / "other"), tokens)


def test_the_file_is_a_plain_gguf(source: Path, calibration_file: Path) -> None:
    bundle = elastic(source, calibration_file)
    names = set(GgufFile.open(bundle.path / "model.gguf").tensors)
    assert len(names) == 2 + 5 * 9


def test_a_vocabulary_that_llama_cpp_does_not_read_is_found_first(
    source: Path, calibration_file: Path
) -> None:
    spec = json.loads((source / "tokenizer.json").read_text())
    spec["added_tokens"].append({**spec["added_tokens"][0], "id": 319, "content": "nul\0"})
    (source / "tokenizer.json").write_text(json.dumps(spec))
    lines: list[str] = []
    with pytest.raises(ElastifyError, match="cannot use the tokenizer in .*source: .* NUL"):
        elastic(source, calibration_file, report=lines.append)
    assert [line.split()[0] for line in lines] == ["read"]
    assert not list(source.parent.glob(".*"))
