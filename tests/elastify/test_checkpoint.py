"""Damaged weight files are refused by name; sound ones are read as safetensors reads them."""

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pliant.elastify.checkpoint import check_values, read_tensors
from pliant.elastify.source import load_model, read_weights
from pliant.errors import ElastifyError
from support.tiny_hf import make_folder, make_model

UP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.norm.weight"


def make_shards(folder: Path, dtype: torch.dtype = torch.float32, **overrides: Any) -> Path:
    make_folder(folder, **overrides)
    (folder / "model.safetensors").unlink()
    make_model(**overrides).to(dtype).save_pretrained(folder, max_shard_size="50KB")
    return folder


def index(folder: Path) -> dict[str, str]:
    return dict(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"])


def write_index(folder: Path, weight_map: Any) -> None:
    text = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def change(folder: Path, name: str, value: Callable[[torch.Tensor], torch.Tensor | None]) -> str:
    """Replaces a tensor in its shard, or drops it; returns the shard."""
    file = folder / index(folder)[name]
    tensors = load_file(file)
    changed = value(tensors.pop(name).clone())
    save_file(tensors if changed is None else {**tensors, name: changed}, file, {"format": "pt"})
    return file.name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_reads_what_safetensors_reads(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = make_shards(tmp_path, dtype)
    found = read_weights(folder)
    assert len(set(index(folder).values())) > 2
    for name, file in index(folder).items():
        with safe_open(folder / file, "pt") as shard:
            stored = shard.get_tensor(name)
        tensor = found[name]
        assert (tensor.file.name, tensor.shape) == (file, tuple(stored.shape))
        content = tensor.file.read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]
        assert content == stored.view(torch.uint8).numpy().tobytes()
    digests = check_values(folder, found)
    for file in {"config.json", *index(folder).values()}:
        assert digests[file] == hashlib.sha256((folder / file).read_bytes()).hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_names_the_tensor_with_a_bad_value(
    tmp_path: Path, dtype: torch.dtype, value: float
) -> None:
    folder = make_shards(tmp_path, dtype)

    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    file = change(folder, UP, spoil)
    with pytest.raises(ElastifyError, match=f"{file}: {UP} holds NaN or infinite"):
        check_values(folder, read_weights(folder))


@pytest.mark.parametrize("place", [0, -1])
def test_the_first_and_the_last_shard_are_looked_through(tmp_path: Path, place: int) -> None:
    folder = make_shards(tmp_path)
    shard = sorted(set(index(folder).values()))[place]
    name = next(name for name, file in index(folder).items() if file == shard)
    change(folder, name, lambda tensor: tensor.fill_(float("nan")))
    with pytest.raises(ElastifyError, match=f"{shard}: {name} holds NaN or infinite"):
        check_values(folder, read_weights(folder))


def test_pointers_of_git_are_no_weights(tmp_path: Path) -> None:
    folder = make_shards(tmp_path)
    shard = folder / index(folder)[UP]
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 98536\n")
    with pytest.raises(ElastifyError, match=f"{shard.name} is a Git LFS pointer.*git lfs pull"):
        read_weights(folder)


def test_names_what_is_missing(tmp_path: Path) -> None:
    folder = make_shards(tmp_path)
    shard = folder / index(folder)[UP]
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(ElastifyError, match=rf"{shard.name} is missing: .*says it holds model\."):
        read_weights(folder)
    shard.write_bytes(content)
    file = change(folder, UP, lambda tensor: None)
    with pytest.raises(ElastifyError, match=f"{file} lacks {UP}, which .*index.json says"):
        read_weights(folder)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "a/b", "..", 3, "a\\b"])
def test_the_index_cannot_lead_out_of_the_folder(tmp_path: Path, file: Any) -> None:
    folder = make_shards(tmp_path)
    write_index(folder, {**index(folder), UP: file})
    with pytest.raises(ElastifyError, match=f"{UP} is said to lie in .*not a file of this folder"):
        read_weights(folder)


def test_truncated_files_name_the_tensor_that_is_cut(tmp_path: Path) -> None:
    folder = make_shards(tmp_path)
    shard = folder / index(folder)[UP]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(ElastifyError, match=rf"{shard.name} is cut short: model\.\S+ ends at byte"):
        read_weights(folder)
    shard.write_bytes(content[:20])
    with pytest.raises(ElastifyError, match=f"{shard.name} is cut short: its header"):
        read_weights(folder)
    shard.write_bytes(content + b"x")
    with pytest.raises(ElastifyError, match="goes on for 1 bytes after its last tensor"):
        read_weights(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 400}, r"embed_tokens.weight is \[320, 64\], but .* asks for \[400, 64\]"),
        ({"hidden_size": 128}, r"embed_tokens.weight is \[320, 64\], but .* for \[320, 128\]"),
        ({"num_attention_heads": 4}, r"o_proj.weight is \[64, 64\], but .* asks for \[64, 32\]"),
        ({"num_key_value_heads": 2}, r"k_proj.weight is \[32, 64\], but .* asks for \[16, 64\]"),
        ({"intermediate_size": 96}, r"_proj.weight is \[.*\], but config.json asks for \["),
        ({"num_hidden_layers": 2}, r"model\.layers\.2\.\S+ has no place in the model"),
        ({"num_hidden_layers": 4}, r"lack 9 tensors that config.json asks for: model\.layers\.3\."),
        ({"tie_word_embeddings": False}, "lack 1 tensors .*: lm_head.weight"),
    ],
)
def test_a_config_of_another_model(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = make_shards(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ElastifyError, match=message):
        read_weights(folder)


def test_an_output_matrix_that_is_not_the_tied_one(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    embeddings = tensors["model.embed_tokens.weight"]
    save_file({**tensors, "lm_head.weight": embeddings.clone()}, folder / "model.safetensors")
    load_model(folder)
    save_file({**tensors, "lm_head.weight": embeddings + 1}, folder / "model.safetensors")
    with pytest.raises(ElastifyError, match="lm_head.weight that differs"):
        load_model(folder)


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    folder = make_shards(tmp_path)
    change(folder, NORM, lambda tensor: tensor.to(torch.float8_e4m3fn))
    with pytest.raises(ElastifyError, match=f"{NORM} is stored as F8_E4M3"):
        read_weights(folder)


def test_old_checkpoints_may_hold_rotary_frequencies(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert load_model(folder).model.layers[0].mlp.up_proj.weight.shape == (128, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a property."""
    return tmp_path_factory.mktemp("examples")


ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "I8", 3, None]),
        "shape": st.lists(st.integers(-2, 5) | st.none(), max_size=3) | st.integers(),
        "data_offsets": st.lists(st.integers(-4, 90) | st.booleans(), max_size=3) | st.text(),
    },
)


@given(header=st.dictionaries(st.text(max_size=4), ENTRY | st.integers()), size=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_odd_headers_are_explained(folder: Path, header: Any, size: int) -> None:
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + bytes(size)
    (folder / "model.safetensors").write_bytes(content)
    try:
        tensors = read_tensors(folder)
    except ElastifyError as error:
        assert "model.safetensors" in str(error)
    else:
        assert sum(tensor.nbytes for tensor in tensors.values()) == size


@given(cut=st.integers(0, 3000), byte=st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_changed_headers_are_explained(folder: Path, cut: int, byte: int) -> None:
    values = {"a": np.zeros(300, np.float32), "b": np.ones((3, 5), np.float32)}
    save_file({k: torch.from_numpy(v) for k, v in values.items()}, folder / "model.safetensors")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[cut % len(content)] = byte
    (folder / "model.safetensors").write_bytes(content)
    try:
        check_values_of(folder)
    except ElastifyError as error:
        assert "model.safetensors" in str(error)


def check_values_of(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    check_values(folder, read_tensors(folder))
