"""Exported Hugging Face folders: stock transformers computes what the engine does."""

import json
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
from support.tiny_hf import LLAMA3_ROPE, make_folder, make_model

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


def adapted(folder: Path, plan: Plan, **overrides: object) -> tuple[Bundle, Level]:
    """A bundle of a random transformers model, with an adapter at level 0.5."""
    source = make_folder(folder / "source", **overrides)
    config = read_config(source)
    path = folder / "m.gguf"
    write_gguf(
        make_model(**overrides), read_vocabulary(source, config.vocab_size), path, "F16", "tiny"
    )
    a = open_bundle(path).architecture
    adapter = make_adapter(folder / "a.gguf", a, plan)
    level = with_adapter(a, Level(0.5, plan, 0.0), "a.gguf", adapter)
    full = Plan.full(a)
    levels = [level, Level(1.0, full, cost_ratio(a, full))]
    scaling = config.rope_scaling
    provenance = {"source": {"rope_scaling": None if scaling is None else vars(scaling)}}
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


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("plan", [UNIFORM, MIXED])
def test_other_families(tmp_path: Path, family: str, plan: Plan) -> None:
    shape = {"layers": 3, "hidden": 64, "heads": 8, "kv_heads": 4, "ff": 128}
    bundle = open_bundle(make_tiny_gguf(tmp_path / "m.gguf", family=family, **shape))
    level = Level(0.5, plan, 0.5)
    folder, _ = export_hugging_face(bundle, level, tmp_path / "hf")
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


def test_what_has_no_configuration_is_refused(tmp_path: Path) -> None:
    gemma = open_bundle(make_tiny_gguf(tmp_path / "g.gguf", family="gemma2"))
    with pytest.raises(UnsupportedModelError, match="for gemma2 models; there are those of llama"):
        export_hugging_face(gemma, gemma.levels[-1], tmp_path / "hf")
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
