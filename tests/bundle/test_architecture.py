"""Reading a model's shape, and refusing models that pliant would run wrongly."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pliant.bundle import Architecture, GgufFile
from pliant.errors import BundleError, CorruptFileError, UnsupportedModelError
from support.raw_gguf import (
    ARRAY,
    BOOL,
    F32,
    STRING,
    U16,
    U32,
    RawGguf,
    Tensor,
    llama_draft,
)
from support.tiny_gguf import make_tiny_gguf


def read(draft: RawGguf, folder: Path) -> Architecture:
    return Architecture.from_gguf(GgufFile.open(draft.write(folder / "m.gguf")))


def test_reads_the_shape(tmp_path: Path) -> None:
    path = make_tiny_gguf(
        tmp_path / "m.gguf",
        layers=3,
        hidden=96,
        heads=6,
        kv_heads=2,
        head_dim=32,
        ff=160,
        vocab=352,
        context=128,
        tied=False,
        rope_factors=True,
        rope_base=500000.0,
    )
    assert Architecture.from_gguf(GgufFile.open(path)) == Architecture(
        name="llama",
        num_layers=3,
        hidden_size=96,
        num_heads=6,
        num_kv_heads=2,
        head_dim=32,
        ff=160,
        vocab_size=352,
        context_length=128,
        rms_eps=pytest.approx(1e-5),
        rope_base=500000.0,
        rope_dim=32,
        rope_scaling_type="none",
        rope_scaling_factor=1.0,
        rope_original_context=128,
        tied_embeddings=False,
        has_rope_factors=True,
    )


def test_defaults_are_llama_cpp_s(tmp_path: Path) -> None:
    draft = llama_draft()
    del draft.metadata["llama.attention.head_count_kv"]
    for name in ("attn_k", "attn_v"):
        draft.tensors[f"blk.0.{name}.weight"].shape = (32, 32)
    architecture = read(draft, tmp_path)
    assert (architecture.num_kv_heads, architecture.heads_per_kv) == (2, 1)
    assert (architecture.head_dim, architecture.rope_dim) == (16, 16)
    assert (architecture.rope_base, architecture.rope_freq_scale) == (10000.0, 1.0)
    assert architecture.rope_original_context == 64
    assert architecture.tied_embeddings
    assert not architecture.has_rope_factors


@pytest.mark.parametrize(
    ("metadata", "kind", "factor"),
    [
        ({"llama.rope.scaling.factor": (F32, 4.0)}, "linear", 4.0),
        ({"llama.rope.scale_linear": (F32, 2.0)}, "linear", 2.0),
        (
            {
                "llama.rope.scaling.type": (STRING, "linear"),
                "llama.rope.scaling.factor": (F32, 8.0),
                "llama.rope.scale_linear": (F32, 2.0),
            },
            "linear",
            8.0,
        ),
        (
            {
                "llama.rope.scaling.type": (STRING, "none"),
                "llama.rope.scaling.factor": (F32, 8.0),
            },
            "none",
            1.0,
        ),
        ({"llama.rope.scaling.factor": (F32, 0.0)}, "none", 1.0),
    ],
)
def test_linear_rope_scaling(
    tmp_path: Path, metadata: dict[str, tuple[int, object]], kind: str, factor: float
) -> None:
    draft = llama_draft()
    draft.metadata |= metadata
    architecture = read(draft, tmp_path)
    assert (architecture.rope_scaling_type, architecture.rope_scaling_factor) == (kind, factor)
    assert architecture.rope_freq_scale == 1 / factor


def change(key: str, kind: int, value: object) -> Callable[[RawGguf], object]:
    return lambda draft: draft.metadata.update({key: (kind, value)})


def drop(key: str) -> Callable[[RawGguf], object]:
    return lambda draft: draft.metadata.pop(key)


def tensor(name: str, shape: tuple[int, ...], type_: int = 0) -> Callable[[RawGguf], object]:
    return lambda draft: draft.tensors.update({name: Tensor(shape, type_)})


BAD: list[tuple[Callable[[RawGguf], object], type[BundleError], str]] = [
    (change("general.architecture", STRING, "mamba"), UnsupportedModelError, "'mamba'; .* gemma3"),
    (
        change("general.architecture", STRING, "qwen2moe"),
        UnsupportedModelError,
        "'qwen2moe'; .* llama",
    ),
    (change("general.architecture", STRING, "qwen2"), CorruptFileError, "qwen2.embedding_length"),
    (change("llama.final_logit_softcapping", F32, 30.0), UnsupportedModelError, "softcapping"),
    (change("general.architecture", U32, 1), CorruptFileError, "general.architecture"),
    (drop("general.architecture"), CorruptFileError, "general.architecture"),
    (drop("llama.block_count"), CorruptFileError, "llama.block_count is missing"),
    (change("llama.block_count", U32, 0), CorruptFileError, "at least 1"),
    (change("llama.block_count", U32, 513), CorruptFileError, "at most 512"),
    (change("llama.block_count", U32, 2), CorruptFileError, "'blk.1.attn_norm.weight' is missing"),
    (change("llama.block_count", BOOL, 1), CorruptFileError, "not an integer"),
    (change("llama.context_length", U32, 2**31), CorruptFileError, "below 2"),
    (change("llama.embedding_length", U32, 64), CorruptFileError, "shape"),
    (change("llama.feed_forward_length", U32, 32), CorruptFileError, "ffn_gate.* shape"),
    (change("llama.feed_forward_length", ARRAY, (U32, [64])), CorruptFileError, "integer"),
    (change("llama.attention.head_count", U32, 64), CorruptFileError, "key_length is 0"),
    (change("llama.attention.head_count_kv", U32, 3), CorruptFileError, "cannot share"),
    (change("llama.attention.head_count_kv", U32, 2), CorruptFileError, "attn_k.* shape"),
    (change("llama.attention.key_length", U32, 32), CorruptFileError, "different length"),
    (change("llama.rope.dimension_count", U32, 15), CorruptFileError, "dimension_count is 15"),
    (change("llama.rope.dimension_count", U32, 18), CorruptFileError, "dimension_count is 18"),
    (change("llama.rope.freq_base", F32, float("nan")), CorruptFileError, "freq_base is nan"),
    (change("llama.rope.freq_base", F32, -1.0), CorruptFileError, "positive"),
    (drop("llama.attention.layer_norm_rms_epsilon"), CorruptFileError, "epsilon is missing"),
    (change("llama.rope.scaling.type", STRING, "yarn"), UnsupportedModelError, "'yarn'"),
    (change("llama.rope.scaling.type", STRING, "longrope"), UnsupportedModelError, "'longrope'"),
    (change("llama.rope.scaling.factor", F32, float("inf")), CorruptFileError, "factor is inf"),
    (change("llama.rope.scaling.factor", ARRAY, (F32, [1.0, 2.0])), CorruptFileError, "factor"),
    (change("llama.expert_count", U32, 8), UnsupportedModelError, "mixture-of-experts"),
    (change("llama.expert_used_count", U32, 2), UnsupportedModelError, "mixture-of-experts"),
    (change("llama.expert_count", ARRAY, (U32, [0, 0])), CorruptFileError, "not an integer"),
    (change("split.count", U16, 2), UnsupportedModelError, "split"),
    (tensor("blk.0.attn_q.bias", (32,)), UnsupportedModelError, "'blk.0.attn_q.bias'"),
    (tensor("blk.1.attn_q.weight", (32, 32), 8), UnsupportedModelError, "'blk.1.attn_q.weight'"),
    (tensor("output.weight", (32, 5), 8), CorruptFileError, "output.weight.* shape"),
    (tensor("rope_freqs.weight", (16,)), CorruptFileError, "rope_freqs.weight.* shape"),
    (tensor("output_norm.weight", (32,), 1), CorruptFileError, "is F16, not F32"),
    (tensor("token_embd.weight", (32,)), CorruptFileError, "token_embd.weight"),
    (tensor("blk.0.ffn_up.weight", (32, 64), 26), UnsupportedModelError, "type I32"),
    (lambda d: d.tensors.pop("blk.0.ffn_up.weight"), CorruptFileError, "ffn_up.weight' is missing"),
    (lambda d: d.tensors.pop("token_embd.weight"), CorruptFileError, "token_embd.weight"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_refuses(tmp_path: Path, number: int) -> None:
    make_wrong, error, message = BAD[number]
    draft = llama_draft()
    make_wrong(draft)
    with pytest.raises(error, match=message):
        read(draft, tmp_path)
