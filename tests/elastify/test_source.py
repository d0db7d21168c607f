import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from pliant.elastify.rope import Rope, RopeScaling, read_rope
from pliant.elastify.source import (
    Dtype,
    choose_dtype,
    config_of,
    load_model,
    load_tokenizer,
    read_config,
    read_weights,
)
from pliant.errors import ElastifyError
from pliant.ggml.cpu import cpu_features
from support.tiny_hf import LLAMA3_ROPE, make_folder, make_model


def write_config(folder: Path, kind: str = "llama", **changes: Any) -> Path:
    config = make_model(kind).config.to_dict()
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
        ({"model_type": "gpt2"}, "'gpt2' is not supported .*llama, mistral, smollm3, qwen2"),
        ({"model_type": "mixtral"}, "'mixtral' is not supported .*gemma3_text"),
        ({"model_type": "qwen3_moe"}, "'qwen3_moe' is not supported"),
        ({"model_type": "mamba2"}, "'mamba2' is not supported"),
        ({"model_type": None}, "None is not supported"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"num_key_value_heads": 3}, "KV heads"),
        ({"num_key_value_heads": 0}, "num_key_value_heads 0 .1 to"),
        ({"num_attention_heads": 0}, r"config\.json is not understood: "),
        ({"hidden_size": -64}, "hidden_size -64"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers 1000000 .1 to 512"),
        ({"vocab_size": 2**40}, "vocab_size 1099511627776"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps 0.0"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 0}}, "rope_theta 0"),
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


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("smollm3", {"no_rope_layers": [1, 0, 1, 1]}, "no_rope_layers other than every 4th"),
        ("gemma2", {"layer_types": ["full_attention"] * 3}, "layer_types"),
        ("gemma2", {"query_pre_attn_scalar": 24}, "query_pre_attn_scalar 24 .llama.cpp takes 16"),
        ("gemma2", {"attn_logit_softcapping": None}, "softcapping of None and 8.0"),
        ("gemma2", {"tie_word_embeddings": False}, "output matrix of its own"),
        ("gemma2", {"hidden_activation": "gelu"}, "hidden_act 'gelu'"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "softcapping of None and 30.0"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("phi3", {"head_dim": 16}, "heads that together are not as large as hidden_size"),
        (
            "qwen2",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
            "RoPE type 'yarn' is not supported in a qwen2 model .supported: default, linear",
        ),
        (
            "qwen2",
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor 0.5",
        ),
    ],
)
def test_refuses_what_a_family_does_not_have(
    tmp_path: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ElastifyError, match=message):
        read_config(write_config(tmp_path, kind, **changes))


@pytest.mark.parametrize(
    ("kind", "changes", "context"),
    [
        ("qwen2", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}, 64),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 3}, 256),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 64}, 256),
        ("phi3", {"sliding_window": 64}, 64),
        ("gemma2", {"sliding_window": 64}, 256),
    ],
)
def test_a_window_that_llama_cpp_does_not_run_limits_the_context(
    kind: str, changes: dict[str, Any], context: int
) -> None:
    assert config_of(make_model(kind, **changes).config).context_length == context


def test_reads_rope_from_the_attributes_of_transformers_4() -> None:
    phi = SimpleNamespace(
        model_type="phi3",
        hidden_size=96,
        num_attention_heads=2,
        max_position_embeddings=256,
        original_max_position_embeddings=64,
        rope_theta=10000.0,
        partial_rotary_factor=0.75,
        rope_scaling={"type": "longrope", "short_factor": [1, 2], "long_factor": [3, 4]},
    )
    rope = read_rope(phi)
    assert (rope.dims, rope.sliding_base) == (36, None)
    assert rope.scaling == RopeScaling(
        kind="longrope",
        factor=4.0,
        original_context=64,
        short_factors=(1.0, 2.0),
        long_factors=(3.0, 4.0),
        attention_factor=pytest.approx((1 + 1 / 3) ** 0.5),
    )
    gemma = SimpleNamespace(
        model_type="gemma3_text",
        head_dim=16,
        rope_theta=1e6,
        rope_local_base_freq=1e4,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        max_position_embeddings=256,
    )
    assert read_rope(gemma) == Rope(1e6, 16, RopeScaling("linear", 8.0), 1e4)


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


def test_computes_in_bfloat16_only_where_the_weights_and_the_hardware_do(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    in_f32 = read_weights(folder)
    load_model(folder, "bf16").save_pretrained(folder)
    in_bf16 = read_weights(folder)
    native: Dtype = "bf16" if "avx512_bf16" in cpu_features() else "f32"
    assert choose_dtype("auto", in_bf16, "cpu") == native
    assert choose_dtype("auto", in_f32, "cpu") == "f32"
    assert choose_dtype("auto", in_bf16, "mps") == "f32"
    assert choose_dtype("bf16", in_f32, "cpu") == "bf16"
