"""Reading the shape of every family's files, and refusing those that pliant would run wrongly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.bundle import FAMILIES, Architecture, GgufFile, weight_tensors
from pliant.errors import BundleError, CorruptFileError, UnsupportedModelError
from support.family_gguf import layer_shapes
from support.raw_gguf import F32, STRING, U32, RawGguf, Tensor, llama_draft
from support.tiny_gguf import make_tiny_gguf

Q8_0 = 8


def draft_of(family: str) -> RawGguf:
    """`llama_draft` as a file of another family."""
    draft = llama_draft()
    draft.metadata = {
        key.replace("llama.", f"{family}.", 1): value for key, value in draft.metadata.items()
    }
    draft.metadata["general.architecture"] = (STRING, family)
    if FAMILIES[family].sliding_interval:
        draft.metadata[f"{family}.attention.sliding_window"] = (U32, 8)
    tensors = {name: t for name, t in draft.tensors.items() if not name.startswith("blk.")}
    for name, shape in layer_shapes(FAMILIES[family], 32, 32, 16, 16, 64).items():
        tensors[f"blk.0.{name}"] = Tensor(shape[::-1], 0 if len(shape) == 1 else Q8_0)
    draft.tensors = tensors
    return draft


def read(draft: RawGguf, folder: Path) -> Architecture:
    return Architecture.from_gguf(GgufFile.open(draft.write(folder / "m.gguf")))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_reads_every_family(tmp_path: Path, family: str) -> None:
    architecture = read(draft_of(family), tmp_path)
    assert architecture.family is FAMILIES[family]
    assert (architecture.num_heads, architecture.head_dim, architecture.ff) == (2, 16, 64)


def test_gemma_3_has_two_kinds_of_layers(tmp_path: Path) -> None:
    draft = draft_of("gemma3")
    draft.metadata["gemma3.rope.freq_base"] = (F32, 1e6)
    draft.metadata["gemma3.rope.scaling.factor"] = (F32, 8.0)
    architecture = read(draft, tmp_path)
    assert [architecture.is_sliding(layer) for layer in range(7)] == [True] * 5 + [False, True]
    assert architecture.rope(0) == (10000.0, 1.0)
    assert architecture.rope(5) == (1e6, 0.125)
    assert (architecture.sliding_window, architecture.attention_softcap) == (8, 0.0)


def test_gemma_2_defaults_are_llama_cpp_s(tmp_path: Path) -> None:
    draft = draft_of("gemma2")
    del draft.metadata["gemma2.attention.sliding_window"]
    architecture = read(draft, tmp_path)
    assert [architecture.is_sliding(layer) for layer in range(3)] == [True, False, True]
    assert (architecture.attention_softcap, architecture.final_softcap) == (50.0, 30.0)
    assert architecture.sliding_window == 4096
    assert architecture.rope(0) == architecture.rope(1) == (10000.0, 1.0)


def test_every_fourth_layer_of_a_smollm3_has_no_positions(tmp_path: Path) -> None:
    architecture = read(draft_of("smollm3"), tmp_path)
    assert [architecture.rope(layer) is None for layer in range(5)] == [False] * 3 + [True, False]


def test_large_gemmas_scale_by_the_width_per_head(tmp_path: Path) -> None:
    path = make_tiny_gguf(tmp_path / "m.gguf", family="gemma2", layers=46, hidden=64, head_dim=32)
    assert Architecture.from_gguf(GgufFile.open(path)).attention_scale == 0.25  # 64 / 4 heads


def test_a_phi_3_may_have_separate_q_k_v(tmp_path: Path) -> None:
    draft = draft_of("phi3")
    del draft.tensors["blk.0.attn_qkv.weight"]
    for name, rows in (("attn_q", 32), ("attn_k", 16), ("attn_v", 16)):
        draft.tensors[f"blk.0.{name}.weight"] = Tensor((32, rows), Q8_0)
    assert read(draft, tmp_path).name == "phi3"


def drop(name: str) -> Callable[[RawGguf], object]:
    return lambda draft: draft.tensors.pop(name)


def tensor(name: str, shape: tuple[int, ...], type_: int = 0) -> Callable[[RawGguf], object]:
    return lambda draft: draft.tensors.update({name: Tensor(shape, type_)})


def key(name: str, kind: int, value: object) -> Callable[[RawGguf], object]:
    return lambda draft: draft.metadata.update({name: (kind, value)})


BAD: list[tuple[str, Callable[[RawGguf], object], type[BundleError], str]] = [
    ("qwen2", drop("blk.0.attn_k.bias"), CorruptFileError, "'blk.0.attn_k.bias' is missing"),
    ("qwen2", tensor("blk.0.attn_q.bias", (32,), 1), CorruptFileError, "F16, not F32"),
    ("qwen2", tensor("blk.0.attn_q.bias", (16,)), CorruptFileError, "attn_q.bias.* shape"),
    ("qwen2", tensor("rope_freqs.weight", (8,)), UnsupportedModelError, "'rope_freqs.weight'"),
    ("qwen2", key("qwen2.rope.scaling.type", STRING, "yarn"), UnsupportedModelError, "'yarn'"),
    ("qwen3", drop("blk.0.attn_q_norm.weight"), CorruptFileError, "attn_q_norm.* missing"),
    ("qwen3", tensor("blk.0.attn_k_norm.weight", (32,)), CorruptFileError, "attn_k_norm.* shape"),
    ("phi3", drop("blk.0.attn_qkv.weight"), CorruptFileError, "'blk.0.attn_q.weight' is missing"),
    ("phi3", tensor("blk.0.attn_qkv.weight", (32, 48), 8), CorruptFileError, "attn_qkv.* shape"),
    ("phi3", tensor("blk.0.ffn_up.weight", (32, 64), 8), CorruptFileError, "ffn_up.* shape"),
    ("phi3", tensor("rope_factors_long.weight", (8,)), CorruptFileError, "short.* is missing"),
    ("phi3", key("phi3.rope.scaling.attn_factor", F32, 0.0), CorruptFileError, "attn_factor"),
    ("gemma2", drop("blk.0.post_ffw_norm.weight"), CorruptFileError, "post_ffw_norm.* missing"),
    ("gemma2", tensor("output.weight", (32, 4), 8), UnsupportedModelError, "'output.weight'"),
    ("gemma2", key("gemma2.attn_logit_softcapping", F32, -1.0), CorruptFileError, "positive"),
    ("gemma3", key("gemma3.final_logit_softcapping", F32, 30.0), UnsupportedModelError, "final"),
    ("gemma3", key("gemma3.attention.sliding_window", U32, 0), CorruptFileError, "at least 1"),
    (
        "gemma3",
        lambda draft: draft.metadata.pop("gemma3.attention.sliding_window"),
        CorruptFileError,
        "sliding_window is missing",
    ),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_refuses(tmp_path: Path, number: int) -> None:
    family, make_wrong, error, message = BAD[number]
    draft = draft_of(family)
    make_wrong(draft)
    with pytest.raises(error, match=message):
        read(draft, tmp_path)


@settings(max_examples=20, deadline=None)
@given(
    heads=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    head_dim=st.sampled_from([32, 64]),
    ff=st.integers(1, 4).map(lambda blocks: 32 * blocks),
    type_=st.sampled_from(["F32", "F16", "Q8_0", "Q4_0"]),
)
def test_parts_of_fused_matrices_are_their_rows(
    tmp_path_factory: pytest.TempPathFactory,
    heads: int,
    kv_heads: int,
    head_dim: int,
    ff: int,
    type_: str,
) -> None:
    path = make_tiny_gguf(
        tmp_path_factory.mktemp("fused") / "m.gguf",
        family="phi3",
        heads=heads * kv_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ff=ff,
        type=type_,
    )
    gguf = GgufFile.open(path)
    architecture = Architecture.from_gguf(gguf)
    tensors = weight_tensors(gguf, architecture)
    data = np.fromfile(path, np.uint8)
    for whole, parts in (
        ("attn_qkv", ("attn_q", "attn_k", "attn_v")),
        ("ffn_up", ("ffn_gate", "ffn_up")),
    ):
        fused = gguf.tensors[f"blk.1.{whole}.weight"]
        rows = data[fused.offset : fused.offset + fused.nbytes].reshape(fused.shape[1], -1)
        start = 0
        for name in parts:
            part = tensors[f"blk.1.{name}.weight"]
            stop = start + part.shape[1]
            found = data[part.offset : part.offset + part.nbytes]
            np.testing.assert_array_equal(found, rows[start:stop].reshape(-1))
            start = stop
        assert start == fused.shape[1]
    assert set(tensors) - set(gguf.tensors) == {
        f"blk.{layer}.{name}.weight"
        for layer in range(2)
        for name in ("attn_q", "attn_k", "attn_v", "ffn_gate")
    }
