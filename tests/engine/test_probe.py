"""Squared attention weights, against transformers' eager attention weights."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from pliant.bundle import LayerPlan, Level, Plan, open_bundle, with_adapter, write_bundle
from pliant.elastify.export import write_gguf
from pliant.elastify.source import read_config
from pliant.elastify.submodel import slice_model
from pliant.elastify.vocabulary import read_vocabulary
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from pliant.errors import ContextOverflowError, PlanError, RequestError
from support.adapters import make_adapter
from support.tiny_bundle import make_tiny_bundle
from support.tiny_hf import WINDOW, make_folder, make_model

TOKENS = np.random.default_rng(5).integers(6, 300, 50).tolist()
LAST = 12
# The cache and ggml's products with it are f16.
TOLERANCE = 1e-3
PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def export(folder: Path, kind: str) -> Path:
    make_folder(folder, kind)
    vocabulary = read_vocabulary(folder, read_config(folder).vocab_size)
    write_gguf(make_model(kind), vocabulary, folder / "model.gguf", "F16", "tiny")
    return folder / "model.gguf"


def opened(path: Path) -> closing[Engine]:
    return closing(Engine(open_bundle(path), EngineOptions(threads=1)))


def mean_squares(model, plan: Plan) -> np.ndarray:
    """Mean of transformers' squared attention weights, over the last queries and the heads that
    share a KV head: [KV heads of all layers, positions]."""
    torch.set_num_threads(1)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = model(torch.tensor([TOKENS]), output_attentions=True, use_cache=False).attentions
    squares = [
        (layer[0, :, -LAST:] ** 2).reshape(sizes.kv_heads, -1, len(TOKENS)).mean(1)
        for layer, sizes in zip(found, plan.layers, strict=True)
    ]
    return torch.cat(squares).numpy()


def probe(engine: Engine, size: Plan | Level, slot: int = 1, last: int = LAST) -> np.ndarray:
    engine.forward(size, [Span(slot, TOKENS, 0, "none")])
    start = len(TOKENS) - last
    found = engine.attention_power(size, Span(slot, TOKENS[start:], start))
    plan = size if isinstance(size, Plan) else size.plan
    assert [len(layer) for layer in found] == [layer.kv_heads for layer in plan.layers]
    return np.concatenate(found)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("is_full", [True, False])
def test_equals_transformers(tmp_path: Path, kind: str, is_full: bool) -> None:
    """Grouped heads, windows, soft caps, norms; the full model and one with some of its heads."""
    with opened(export(tmp_path, kind)) as engine:
        plan = Plan.full(engine.architecture)
        if not is_full:
            sizes = (LayerPlan(2, 2, 64), LayerPlan(3, 1, 128), LayerPlan(1, 2, 32))
            plan = Plan(tuple(sizes[i % 3] for i in range(len(plan.layers))))
        found = probe(engine, plan)
    np.testing.assert_allclose(
        found, mean_squares(slice_model(make_model(kind), plan), plan), atol=TOLERANCE
    )
    assert (1 / len(TOKENS) < found.sum(axis=1)).all() and (found.sum(axis=1) < 1).all()


def test_windows_hide_what_lies_before_them(tmp_path: Path) -> None:
    with opened(export(tmp_path, "gemma2")) as engine:
        windowed = Plan((LayerPlan(4, 2, 128), *(LayerPlan(0, 0, 128),) * 2))
        assert engine.architecture.is_sliding(0)
        found = probe(engine, windowed, last=1)
    assert not found[:, : len(TOKENS) - WINDOW].any()
    assert found[:, len(TOKENS) - WINDOW :].all()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory):
    bundle = make_tiny_bundle(tmp_path_factory.mktemp("probe") / "tiny", heads=8)
    engine = Engine(bundle, EngineOptions(threads=1, slots=2))
    yield engine
    engine.close()


def test_adapters_count(tmp_path: Path) -> None:
    """A level's own queries are asked: transformers with the adapter added to its weights."""
    kind = "qwen2"
    path = export(tmp_path, kind)
    a = open_bundle(path).architecture
    plan = Plan((LayerPlan(2, 2, 64), LayerPlan(3, 1, 128), LayerPlan(1, 2, 32)))
    adapter = make_adapter(tmp_path / "a.gguf", a, plan, rank=4)
    level = with_adapter(a, Level(0.5, plan, 0.0), "a.gguf", adapter)
    levels = [level, Level(1.0, Plan.full(a), 1.0)]
    files = {"a.gguf": tmp_path / "a.gguf"}
    bundle = write_bundle(tmp_path / "b", path, levels, {}, files)
    model = make_model(kind)
    with torch.no_grad():
        small = slice_model(model, plan)
        for name in adapter.names:
            _, index, part, _ = name.split(".")
            factor_a, factor_b = adapter.factors(name)
            weight = small.model.layers[int(index)].get_submodule(PARTS[part]).weight
            weight += torch.from_numpy(adapter.scale * (factor_b @ factor_a))
    with closing(Engine(bundle, EngineOptions(threads=1))) as engine:
        found = probe(engine, level)
        bare = probe(engine, level.plan)
    expected = mean_squares(small, plan)
    np.testing.assert_allclose(found, expected, atol=5 * TOLERANCE)
    assert np.abs(bare - expected).max() > 25 * TOLERANCE


def test_nothing_is_written_and_steps_go_on(engine: Engine) -> None:
    level = engine.bundle.levels[-1]
    engine.forward(level, [Span(0, TOKENS, 0)])
    engine.forward(level, [Span(0, [7], 50)])
    expected = engine.forward(level, [Span(0, [8], 51)]).copy()
    engine.forward(level, [Span(0, TOKENS, 0)])
    engine.forward(level, [Span(0, [7], 50)])
    before = engine.kv.rows.copy()
    engine.attention_power(level, Span(0, TOKENS[-LAST:], 50 - LAST))
    assert np.array_equal(engine.kv.rows, before)
    assert np.array_equal(engine.forward(level, [Span(0, [8], 51)]), expected)


def test_refuses_what_it_cannot_measure(engine: Engine) -> None:
    plan = Plan((LayerPlan(0, 0, 32),) * 2)
    with pytest.raises(PlanError, match="no attention"):
        engine.attention_power(plan, Span(0, TOKENS, 0))
    full = engine.bundle.levels[-1]
    with pytest.raises(ContextOverflowError):
        engine.attention_power(full, Span(0, TOKENS, 256))
    with pytest.raises(RequestError, match="slot is 2"):
        engine.attention_power(full, Span(2, TOKENS, 0))
