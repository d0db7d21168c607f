import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from pliant.elastify.source import (
    RopeScaling,
    config_of,
    load_model,
    load_tokenizer,
    read_config,
)
from pliant.errors import ElastifyError
from support.tiny_hf import LLAMA3_ROPE, make_folder, make_model


def write_config(folder: Path, **changes: Any) -> Path:
    config = make_model().config.to_dict()
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def test_reads_the_sizes(tmp_path: Path) -> None:
    config = read_config(write_config(tmp_path, head_dim=32))
    assert (config.num_layers, config.hidden_size, config.ff) == (3, 64, 128)
    assert (config.num_heads, config.num_kv_heads, config.heads_per_kv) == (8, 4, 2)
    assert (config.head_dim, config.vocab_size, config.context_length) == (32, 320, 256)
    assert config.tied_embeddings
    assert config.rope_scaling is None


def test_reads_rope_scaling() -> None:
    assert config_of(make_model(rope_parameters=LLAMA3_ROPE).config).rope_scaling == RopeScaling(
        kind="llama3", factor=8, low_freq_factor=1, high_freq_factor=4, original_context=64
    )


def test_reads_the_older_way_to_write_rope(tmp_path: Path) -> None:
    config = make_model().config.to_dict()
    del config["rope_parameters"]
    config |= {"rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_config(tmp_path)
    assert (found.rope_base, found.rope_scaling) == (5000.0, RopeScaling("linear", 2.0))


def test_a_sliding_window_limits_the_context() -> None:
    assert config_of(make_model("mistral", sliding_window=128).config).context_length == 128


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "'gpt2' is not supported .*llama, mistral"),
        ({"model_type": None}, "None is not supported"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"num_key_value_heads": 3}, "KV heads"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config"),
        (
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "dynamic",
        ),
        ({"hidden_size": "many"}, "not understood"),
    ],
)
def test_refuses_what_it_cannot_carry_over(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ElastifyError, match=message):
        read_config(write_config(tmp_path, **changes))


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_refuses_a_broken_config(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ElastifyError, match=r"config\.json"):
        read_config(tmp_path)


def test_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ElastifyError, match="config.json is missing"):
        read_config(tmp_path)
    with pytest.raises(ElastifyError, match="no tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(ElastifyError, match="no .safetensors"):
        load_model(write_config(tmp_path))


def test_refuses_weights_that_lack_a_tensor(tmp_path: Path) -> None:
    weights = make_folder(tmp_path) / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ElastifyError, match=r"lack 1 tensors .*model\.layers\.1\.mlp\.up_proj"):
        load_model(tmp_path)


def test_refuses_damaged_weights(tmp_path: Path) -> None:
    weights = make_folder(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ElastifyError, match="cut short: its header|cut short: model"):
        load_model(tmp_path)
