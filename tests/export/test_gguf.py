"""Exported GGUF files: llama.cpp computes what the engine does at the level."""

from dataclasses import replace
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest

from pliant.bundle import FAMILIES, Bundle, LayerPlan, Level, Plan, open_bundle, write_adapter
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from pliant.errors import BundleError, PlanError, RequestError
from pliant.export import export_gguf, matrices
from pliant.ggml.library import load
from support.adapters import make_adapter
from support.llama_reference import LlamaReference
from support.tiny_gguf import make_tiny_gguf

TOKENS = np.random.default_rng(5).integers(6, 300, 24).tolist()
UNIFORM = Plan((LayerPlan(2, 2, 128),) * 3)
MIXED = Plan((LayerPlan(2, 2, 128), LayerPlan(4, 1, 64), LayerPlan(1, 2, 256)))
WITHOUT_ATTENTION = Plan((LayerPlan(2, 2, 128), LayerPlan(0, 0, 64), LayerPlan(1, 2, 32)))
SHAPE = {"layers": 3, "hidden": 128, "heads": 8, "kv_heads": 4, "head_dim": 64, "ff": 256}


def model(folder: Path, type_: str = "F32", **options: object) -> Bundle:
    path = make_tiny_gguf(folder / f"{type_}.gguf", type=type_, **SHAPE | options)  # type: ignore[arg-type]
    return open_bundle(path)


def adapted(
    bundle: Bundle, folder: Path, plan: Plan, quantization: str = "F16"
) -> tuple[Bundle, Level]:
    adapter = make_adapter(folder / "a.gguf", bundle.architecture, plan, quantization)
    level = Level(0.5, plan, 0.5, adapter="a.gguf")
    return replace(bundle, adapters={"a.gguf": adapter}), level


def engine_logits(bundle: Bundle, level: Level | Plan) -> np.ndarray:
    engine = Engine(bundle, EngineOptions(threads=1, layout="plain"))
    logits = engine.forward(level, [Span(0, TOKENS, 0, "all")])
    engine.close()
    return logits


def llama_logits(path: Path, adapter: Path | None = None) -> np.ndarray:
    reference = LlamaReference(path, adapter=adapter)
    logits = reference.logits(TOKENS)
    reference.close()
    return logits


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference as a share of the range of the logits."""
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.ptp(b))


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """RMS of the difference over the standard deviation of `b`."""
    return float(np.sqrt(np.mean((a - b) ** 2)) / b.std())


@pytest.mark.parametrize("plan", [UNIFORM, MIXED, WITHOUT_ATTENTION])
@pytest.mark.parametrize("type_", ["F32", "Q8_0"])
def test_a_bare_level_is_what_the_engine_runs(tmp_path: Path, type_: str, plan: Plan) -> None:
    bundle = model(tmp_path, type_, rope_factors=True, tied=type_ == "F32")
    path = export_gguf(bundle, Level(0.5, plan, 0.5), tmp_path / "small.gguf")
    assert difference(llama_logits(path), engine_logits(bundle, plan)) < 1e-4


@pytest.mark.parametrize("quantization", ["F16", "Q8_0"])
@pytest.mark.parametrize("plan", [UNIFORM, MIXED])
def test_the_engine_equals_llama_cpp_with_the_same_adapter(
    tmp_path: Path, plan: Plan, quantization: str
) -> None:
    bundle, level = adapted(model(tmp_path), tmp_path, plan, quantization)
    small = export_gguf(bundle, replace(level, adapter=None), tmp_path / "small.gguf")
    file = bundle.adapters["a.gguf"].gguf.path
    if plan is MIXED:  # llama.cpp wants the name of the model's architecture in the adapter
        a = bundle.adapters["a.gguf"]
        factors = {name: a.factors(name) for name in a.names}
        file = tmp_path / "deci.gguf"
        write_adapter(file, "deci", factors, a.alpha, quantization)
    expected = llama_logits(small, file)
    # Where A is Q8_0, both round activations; what they round differs in the last bit of F16.
    tolerance = 5e-3 if quantization == "F16" else 0.03
    assert difference(engine_logits(bundle, level), expected) < tolerance
    assert difference(engine_logits(bundle, plan), expected) > 0.1


@pytest.mark.parametrize(
    ("type_", "quantization", "tolerance"),
    [("F32", None, 0.02), ("F16", None, 0.02), ("Q8_0", None, 0.2), ("F16", "Q8_0", 0.2)],
)
@pytest.mark.parametrize("plan", [UNIFORM, MIXED, WITHOUT_ATTENTION])
def test_an_adapter_is_merged(
    tmp_path: Path, type_: str, quantization: str | None, tolerance: float, plan: Plan
) -> None:
    bundle, level = adapted(model(tmp_path, type_), tmp_path, plan)
    path = export_gguf(bundle, level, tmp_path / "small.gguf", quantization=quantization)
    expected = engine_logits(bundle, level)
    assert relative_error(llama_logits(path), expected) < tolerance
    assert relative_error(engine_logits(bundle, plan), expected) > 0.6


@pytest.mark.parametrize("name", ["Q4_K_M", "Q5_K_M"])
def test_llama_cpps_mixes_of_types_are_run_and_exported(tmp_path: Path, name: str) -> None:
    shape = {"layers": 8, "hidden": 256, "heads": 4, "kv_heads": 4, "head_dim": 64, "ff": 512}
    source = make_tiny_gguf(tmp_path / "f16.gguf", tied=False, **shape)
    load()
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
    mixed = tmp_path / "mixed.gguf"
    paths = (str(path).encode() for path in (source, mixed))
    assert llama_cpp.llama_model_quantize(*paths, options) == 0
    bundle = open_bundle(mixed)
    types = {info.type.name for info in bundle.gguf.tensors.values()}
    assert types == {name.removesuffix("_M"), "Q6_K", "F32"}
    for plan in (Plan.full(bundle.architecture), Plan((LayerPlan(4, 1, 256),) * 8)):
        path = export_gguf(bundle, Level(0.5, plan, 0.5), tmp_path / "small.gguf", force=True)
        assert difference(llama_logits(path), engine_logits(bundle, plan)) < 1e-4


def test_matrices_are_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, level = adapted(model(tmp_path, "F16"), tmp_path, MIXED)
    whole = export_gguf(bundle, level, tmp_path / "whole.gguf").read_bytes()
    monkeypatch.setattr(matrices, "_CHUNK", 1000)
    assert export_gguf(bundle, level, tmp_path / "chunks.gguf").read_bytes() == whole


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_from_a_uniform_plan(tmp_path: Path, name: str) -> None:
    needs_all_heads = name in ("phi3", "qwen2")
    bundle = model(tmp_path, "F16", family=name, head_dim=16 if needs_all_heads else 64)
    for plan in (UNIFORM, Plan((LayerPlan(4, 2, 96),) * 3)):
        bundle, level = adapted(bundle, tmp_path, plan)
        if plan is UNIFORM and needs_all_heads:
            with pytest.raises(PlanError, match=f"loads {name} models only with all of them"):
                export_gguf(bundle, level, tmp_path / "small.gguf")
            continue
        path = export_gguf(bundle, level, tmp_path / "small.gguf", force=True)
        assert difference(llama_logits(path), engine_logits(bundle, level)) < 5e-3


def test_types_names_and_metadata(tmp_path: Path) -> None:
    bundle = model(tmp_path, "F16", tied=False, ff=288)
    level = Level(0.5, Plan((LayerPlan(2, 2, 96), LayerPlan(3, 2, 288), LayerPlan(3, 2, 64))), 0.5)
    reader = gguf.GGUFReader(export_gguf(bundle, level, tmp_path / "s.gguf", quantization="Q4_0"))
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["token_embd.weight"] == types["blk.1.ffn_down.weight"] == "Q4_0"
    assert (types["output.weight"], types["output_norm.weight"]) == ("Q8_0", "F32")
    values = {key: field.contents() for key, field in reader.fields.items()}
    assert values["general.architecture"] == "deci"
    assert values["general.name"] == f"{bundle.name}-0.5"
    assert values["deci.attention.head_count"] == [4, 6, 6]
    assert values["deci.attention.head_count_kv"] == [2, 3, 3]
    assert values["deci.feed_forward_length"] == [96, 288, 64]
    assert values["tokenizer.ggml.tokens"] == list(bundle.gguf.metadata["tokenizer.ggml.tokens"])
    assert not any(key.startswith("llama.") for key in values)
    coarse = gguf.GGUFReader(export_gguf(bundle, level, tmp_path / "k.gguf", quantization="Q4_K"))
    assert {t.tensor_type.name for t in coarse.tensors if t.name.endswith("ffn_up.weight")} == {
        "F16"  # rows of 128 are not whole blocks of 256
    }


@pytest.mark.parametrize(
    "plan", [(LayerPlan(0, 0, 64), *UNIFORM.layers[1:]), (LayerPlan(2, 2, 0),) * 3]
)
def test_what_llama_cpp_cannot_run_is_refused(tmp_path: Path, plan: tuple[LayerPlan, ...]) -> None:
    with pytest.raises(PlanError, match="llama.cpp cannot run that"):
        export_gguf(model(tmp_path), Level(0.5, Plan(plan), 0.5), tmp_path / "small.gguf")


@pytest.mark.parametrize(
    ("family", "advice"),
    [
        ("qwen3", "--format hf, or make the bundle with --plan uniform --anchors 0$"),
        ("qwen2", "--format hf$"),
    ],
)
def test_a_mixed_plan_of_another_family_is_refused_with_the_reason(
    tmp_path: Path, family: str, advice: str
) -> None:
    bundle = model(tmp_path, family=family)
    reason = f"per layer only for llama models, not for {family}: write it with {advice}"
    with pytest.raises(PlanError, match=reason):
        export_gguf(bundle, Level(0.5, MIXED, 0.5), tmp_path / "small.gguf")


def test_refuses_to_overwrite_and_leaves_nothing_behind(tmp_path: Path) -> None:
    bundle, level = model(tmp_path), Level(0.5, UNIFORM, 0.5)
    target = tmp_path / "out" / "small.gguf"
    target.parent.mkdir()
    with pytest.raises(RequestError, match="'Q9' is not one of F32, F16"):
        export_gguf(bundle, level, target, quantization="Q9")
    target.write_text("mine")
    with pytest.raises(BundleError, match="exists; choose another name or overwrite"):
        export_gguf(bundle, level, target)
    assert target.read_text() == "mine"
    export_gguf(bundle, level, target, force=True)
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(BundleError, match="cannot write"):
        export_gguf(bundle, level, tmp_path / "no" / "small.gguf")


def test_the_bundle_itself_is_not_overwritten(tmp_path: Path) -> None:
    bundle, level = adapted(model(tmp_path), tmp_path, UNIFORM)
    (tmp_path / "link").symlink_to(bundle.gguf.path)
    own = (bundle.gguf.path, tmp_path / "a.gguf", tmp_path / "link")
    before = [path.read_bytes() for path in own]
    for path in own:
        with pytest.raises(BundleError, match="is a part of the bundle itself"):
            export_gguf(bundle, level, path, force=True)
    assert [path.read_bytes() for path in own] == before
