"""Exported Hugging Face folders: stock transformers computes what the engine does."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pliant.bundle import (
    Bundle,
    LayerPlan,
    Level,
    Plan,
    cost_ratio,
    open_bundle,
    with_adapter,
    write_bundle,
)
from pliant.elastify.export import write_gguf
from pliant.elastify.families import SOURCES
from pliant.elastify.fused import split_fused
from pliant.elastify.source import read_config
from pliant.elastify.submodel import logits, slice_model
from pliant.elastify.vocabulary import read_vocabulary
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from pliant.errors import BundleError, UnsupportedModelError
from pliant.export import export_hugging_face
from support.adapters import make_adapter
from support.tiny_gguf import make_tiny_gguf
from support.tiny_hf import LLAMA3_ROPE, LONGROPE, make_folder, make_model

TOKENS = np.random.default_rng(5).integers(6, 300, 24).tolist()
UNIFORM = Plan((LayerPlan(2, 2, 64),) * 3)
MIXED = Plan((LayerPlan(2, 2, 96), LayerPlan(4, 1, 128), LayerPlan(1, 2, 32)))
WITHOUT_PARTS = Plan((LayerPlan(2, 2, 0), LayerPlan(0, 0, 64), LayerPlan(4, 2, 128)))
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}
VARIANTS = [
    {},
    {"tie_word_embeddings": False, "head_dim": 32},
    {"rope_parameters": LLAMA3_ROPE},
    {"rope_parameters": LINEAR_ROPE},
]


def adapted(
    folder: Path, plan: Plan, kind: str = "llama", **overrides: object
) -> tuple[Bundle, Level]:
    """A bundle of a random transformers model, with an adapter at level 0.5."""
    source = make_folder(folder / "source", kind, **overrides)
    config = read_config(source)
    path = folder / "m.gguf"
    vocabulary = read_vocabulary(source, config.vocab_size)
    write_gguf(split_fused(make_model(kind, **overrides)), vocabulary, path, "F16", "tiny")
    a = open_bundle(path).architecture
    plan = Plan((plan.layers * a.num_layers)[: a.num_layers])
    adapter = make_adapter(folder / "a.gguf", a, plan)
    level = with_adapter(a, Level(0.5, plan, 0.0), "a.gguf", adapter)
    full = Plan.full(a)
    levels = [level, Level(1.0, full, cost_ratio(a, full))]
    provenance = {"source": asdict(config)}
    bundle = write_bundle(folder / "b", path, levels, provenance, {"a.gguf": folder / "a.gguf"})
    return bundle, level


def engine_logits(bundle: Bundle, level: Level) -> np.ndarray:
    engine = Engine(bundle, EngineOptions(threads=1))
    found = engine.forward(level, [Span(0, TOKENS, 0, "all")])
    engine.close()
    return found


def transformers_logits(folder: Path) -> np.ndarray:
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return logits(model.eval(), torch.tensor([TOKENS]))[0].numpy()


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference as a share of the range of the logits."""
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.ptp(b))


@pytest.mark.parametrize("overrides", VARIANTS)
@pytest.mark.parametrize("plan", [UNIFORM, MIXED, WITHOUT_PARTS])
def test_transformers_computes_what_the_engine_does(
    tmp_path: Path, plan: Plan, overrides: dict
) -> None:
    bundle, level = adapted(tmp_path, plan, **overrides)
    folder, notes = export_hugging_face(bundle, level, tmp_path / "hf")
    assert difference(transformers_logits(folder), engine_logits(bundle, level)) < 1e-2
    assert any("zeros for dropped units" in note for note in notes) == (plan is not UNIFORM)
    sizes = json.loads((folder / "config.json").read_text())
    assert sizes["intermediate_size"] == (64 if plan is UNIFORM else 128)


@pytest.mark.parametrize("kind", sorted(SOURCES))
@pytest.mark.parametrize("plan", [UNIFORM, MIXED, WITHOUT_PARTS])
def test_every_family(tmp_path: Path, plan: Plan, kind: str) -> None:
    bundle, level = adapted(tmp_path, plan, kind)
    folder, notes = export_hugging_face(bundle, level, tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == kind
    has_own_sizes = plan is UNIFORM and kind != "phi3"
    assert any("zeros for dropped units" in note for note in notes) != has_own_sizes
    assert config["num_attention_heads"] == (4 if has_own_sizes else 8)
    found = transformers_logits(folder)
    assert difference(found, engine_logits(bundle, level)) < 1e-2
    assert difference(found, engine_logits(bundle, replace(level, adapter=None))) > 0.05


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_number_of_heads_that_transformers_does_not_take(tmp_path: Path, kind: str) -> None:
    bundle, level = adapted(tmp_path, Plan((LayerPlan(3, 1, 64),)), kind)
    folder, notes = export_hugging_face(bundle, level, tmp_path / "hf")
    assert "sizes are none it knows" in notes[0]
    assert difference(transformers_logits(folder), engine_logits(bundle, level)) < 1e-2


def test_a_narrower_phi3_with_all_heads_has_its_own_sizes(tmp_path: Path) -> None:
    features = {"rope_parameters": {**LONGROPE, "attention_factor": 1.3}}
    bundle, level = adapted(tmp_path, Plan((LayerPlan(4, 2, 64),)), "phi3", **features)
    folder, _ = export_hugging_face(bundle, level, tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    assert (config["intermediate_size"], config["partial_rotary_factor"]) == (64, 0.75)
    assert config["rope_scaling"]["attention_factor"] == pytest.approx(1.3)
    assert difference(transformers_logits(folder), engine_logits(bundle, level)) < 1e-2


def test_the_tokenizer_is_copied_and_folders_are_kept(tmp_path: Path) -> None:
    bundle, level = adapted(tmp_path, UNIFORM)
    target = tmp_path / "hf"
    with pytest.raises(BundleError, match="has no tokenizer"):
        export_hugging_face(bundle, level, target, tokenizer=tmp_path)
    _, notes = export_hugging_face(bundle, level, target, tokenizer=tmp_path / "source")
    assert notes == []
    tokenizer = AutoTokenizer.from_pretrained(target, local_files_only=True)
    assert tokenizer("Turn on the wifi")["input_ids"]
    with pytest.raises(BundleError, match="overwrite it with --force"):
        export_hugging_face(bundle, level, target)
    _, notes = export_hugging_face(bundle, level, target, force=True)
    assert "no tokenizer" in notes[0]
    assert {path.name for path in target.iterdir()} == {"config.json", "model.safetensors"}
    (tmp_path / "mine").mkdir()
    with pytest.raises(BundleError, match="is not a model folder"):
        export_hugging_face(bundle, level, tmp_path / "mine", force=True)
    with pytest.raises(BundleError, match="cannot write"):
        export_hugging_face(bundle, level, tmp_path / "no" / "hf")
    assert not list(tmp_path.glob(".*"))


def test_a_bare_gguf_is_enough(tmp_path: Path) -> None:
    bundle = open_bundle(make_tiny_gguf(tmp_path / "m.gguf", family="gemma3", layers=6))
    folder, _ = export_hugging_face(bundle, bundle.levels[-1], tmp_path / "hf")
    found = engine_logits(bundle, bundle.levels[-1])
    assert difference(transformers_logits(folder), found) < 1e-2


def test_what_has_no_configuration_is_refused(tmp_path: Path) -> None:
    scaled = open_bundle(make_tiny_gguf(tmp_path / "s.gguf", rope_factors=True))
    with pytest.raises(UnsupportedModelError, match="provenance does not say"):
        export_hugging_face(scaled, scaled.levels[-1], tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@torch.no_grad()
@pytest.mark.parametrize("plan", [UNIFORM, MIXED])
def test_the_engine_equals_a_transformers_sub_model_with_lora(tmp_path: Path, plan: Plan) -> None:
    """W + scale * B A added by hand to a sliced model that never saw a GGUF."""
    bundle, level = adapted(tmp_path, plan)
    model = slice_model(make_model(), plan)
    adapter = bundle.adapters["a.gguf"]
    for name in adapter.names:
        _, index, part, _ = name.split(".")
        a, b = adapter.factors(name)
        if part in ("attn_q", "attn_k"):  # from pairs that rotate together to halves
            dim = bundle.architecture.head_dim
            b = b.reshape(-1, dim // 2, 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape)
        linear = model.model.layers[int(index)].get_submodule(MODULES[part])
        linear.weight += torch.from_numpy(adapter.scale * b @ a)
    expected = logits(model, torch.tensor([TOKENS]))[0].numpy()
    assert difference(engine_logits(bundle, level), expected) < 1e-2
