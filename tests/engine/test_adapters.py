"""Levels with adapters: what they compute, in every layout, and what they take of memory."""

from pathlib import Path

import numpy as np
import pytest

from pliant.bundle import (
    Bundle,
    LayerPlan,
    Level,
    Plan,
    open_bundle,
    with_adapter,
    write_bundle,
)
from pliant.engine import adapters
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from pliant.errors import UnknownLevelError
from support.adapted_bundle import SMALL, WIDE, adapted_bundle
from support.adapters import make_adapter
from support.tiny_gguf import make_tiny_gguf

TOKENS = np.random.default_rng(3).integers(6, 300, 40).tolist()
WITHOUT_PARTS = Plan((LayerPlan(2, 2, 0), LayerPlan(0, 0, 256), LayerPlan(1, 1, 0)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return adapted_bundle(tmp_path_factory.mktemp("plain"), "F32")


def engine_of(bundle: Bundle, **options) -> Engine:
    return Engine(bundle, EngineOptions(**{"threads": 1} | options))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference as a share of the range of the logits."""
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.ptp(b))


def both_ways(engine: Engine, level: Level | Plan) -> tuple[np.ndarray, np.ndarray]:
    """Logits of TOKENS as one prompt, and one by one."""
    batch = engine.forward(level, [Span(0, TOKENS, 0, "all")])
    steps = [engine.forward(level, [Span(1, [t], i)]).copy() for i, t in enumerate(TOKENS)]
    return batch, np.concatenate(steps)


def merge(bundle: Bundle, level: Level, target: Path) -> Bundle:
    """Copy the F32 model with W + scale * B A in the units that the level runs."""
    target.write_bytes(bundle.gguf.path.read_bytes())
    a, adapter = bundle.architecture, bundle.adapters[level.adapter or ""]
    group = a.heads_per_kv
    for name in adapter.names:
        layer = level.plan.layers[int(name.split(".")[1])]
        heads = np.zeros((a.num_kv_heads, group, a.head_dim), dtype=bool)
        heads[: layer.kv_heads, : layer.heads_per_kv] = True
        keys = np.arange(a.num_kv_heads * a.head_dim) < layer.kv_heads * a.head_dim
        neurons = np.arange(a.ff) < layer.ff
        hidden = np.ones(a.hidden_size, dtype=bool)
        rows, columns = {
            "attn_q": (heads.reshape(-1), hidden),
            "attn_k": (keys, hidden),
            "attn_v": (keys, hidden),
            "attn_output": (hidden, heads.reshape(-1)),
            "ffn_gate": (neurons, hidden),
            "ffn_up": (neurons, hidden),
            "ffn_down": (hidden, neurons),
        }[name.split(".")[2]]
        info = bundle.gguf.tensors[name]
        weights = np.memmap(target, np.float32, "r+", info.offset, info.shape[::-1])
        factor_a, factor_b = adapter.factors(name)
        weights[np.ix_(rows, columns)] += adapter.scale * (factor_b @ factor_a)
        weights.flush()
    return open_bundle(target)


@pytest.mark.parametrize("layout", ["plain", "repacked"])
def test_equals_the_weights_with_the_adapter_merged_in(
    plain: Bundle, tmp_path: Path, layout: str
) -> None:
    engine = engine_of(plain, layout=layout)
    for level in plain.levels[:-1]:
        merged = engine_of(merge(plain, level, tmp_path / "merged.gguf"), layout="plain")
        expected = merged.forward(level.plan, [Span(0, TOKENS, 0, "all")])
        for ours in both_ways(engine, level):
            assert difference(ours, expected) < 6e-3
        bare = engine.forward(level.plan, [Span(0, TOKENS, 0, "all")])
        assert difference(bare, expected) > 0.1
        merged.close()
    engine.close()


@pytest.mark.parametrize("quantization", ["F16", "Q8_0"])
@pytest.mark.parametrize("plan", [SMALL, WIDE, WITHOUT_PARTS])
def test_types_and_plans(plain: Bundle, tmp_path: Path, quantization: str, plan: Plan) -> None:
    a = plain.architecture
    adapter = make_adapter(tmp_path / "a", a, plan, quantization, rank=32)
    level = with_adapter(a, Level(0.4, plan, 0.0), "a", adapter)
    levels = [level, plain.levels[-1]]
    bundle = write_bundle(tmp_path / "b", plain.gguf.path, levels, {}, {"a": tmp_path / "a"})
    merged = engine_of(merge(bundle, level, tmp_path / "merged.gguf"), layout="plain")
    engine = engine_of(bundle)
    expected = merged.forward(plan, [Span(0, TOKENS, 0, "all")])
    for ours in both_ways(engine, level):
        assert difference(ours, expected) < (6e-3 if quantization == "F16" else 3e-2)
    engine.close()
    merged.close()


def test_multi_head_attention_and_one_layer(tmp_path: Path) -> None:
    """q, k and v of equal size are stacked in one product."""
    model = make_tiny_gguf(tmp_path / "m.gguf", layers=1, heads=4, kv_heads=4, type="F32")
    a = open_bundle(model).architecture
    plan = Plan((LayerPlan(2, 1, 64),))
    adapter = make_adapter(tmp_path / "a", a, plan)
    level = with_adapter(a, Level(0.5, plan, 0.0), "a", adapter)
    full = Level(1.0, Plan.full(a), 1.0)
    bundle = write_bundle(tmp_path / "b", model, [level, full], {}, {"a": tmp_path / "a"})
    merged = engine_of(merge(bundle, level, tmp_path / "merged.gguf"))
    engine = engine_of(bundle)
    expected = merged.forward(plan, [Span(0, TOKENS, 0, "all")])
    for ours in both_ways(engine, level):
        assert difference(ours, expected) < 6e-3
    engine.forward(level, [Span(2, TOKENS, 0, "none")])
    last = engine.forward(level, [Span(2, [7], len(TOKENS))])
    again = engine.forward(level, [Span(0, [7], len(TOKENS))])
    assert difference(last, again) < 1e-5
    engine.close()
    merged.close()


@pytest.mark.parametrize("type_", ["Q4_0", "Q4_K", "Q8_0"])
def test_layouts_agree(tmp_path: Path, type_: str) -> None:
    bundle = adapted_bundle(tmp_path, type_, "Q8_0", head_dim=256)
    found = {}
    for layout in ("plain", "repacked", "auto"):
        engine = engine_of(bundle, layout=layout)
        found[layout] = [both_ways(engine, level) for level in bundle.levels[:-1]]
        engine.close()
    for layout in ("repacked", "auto"):
        for ours, expected in zip(found[layout], found["plain"], strict=True):
            for way in ours:
                assert difference(way, expected[0]) < 0.06


def test_spans_of_several_slots_are_corrected_alike(plain: Bundle) -> None:
    engine = engine_of(plain)
    level = plain.levels[0]
    alone = [
        engine.forward(level, [Span(0, TOKENS[:9], 0, "all")]),
        engine.forward(level, [Span(1, TOKENS[9:10], 0)]),
    ]
    together = engine.forward(level, [Span(2, TOKENS[:9], 0, "all"), Span(3, TOKENS[9:10], 0)])
    assert difference(together, np.concatenate(alone)) < 1e-3
    engine.close()


def test_switching_changes_nothing_but_the_level(plain: Bundle) -> None:
    engine = engine_of(plain)
    sizes = [*plain.levels, plain.levels[0].plan]
    first = [engine.forward(size, [Span(0, TOKENS, 0)]) for size in sizes]
    for _ in range(2):
        for size, expected in zip(sizes, first, strict=True):
            again = engine.forward(size, [Span(0, TOKENS, 0)])
            np.testing.assert_array_equal(again, expected)
    assert np.ptp([logits[0, 0] for logits in first]) > 0
    engine.close()


@pytest.mark.parametrize("budget", [1, 60_000, 64 << 20])
def test_adapters_take_no_more_memory_than_is_set_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    monkeypatch.setattr(adapters, "RESIDENT_BYTES", budget)
    model = make_tiny_gguf(tmp_path / "m.gguf", ff=512, type="F32")
    a = open_bundle(model).architecture
    levels, files = [], {}
    for number in range(1, 7):
        plan = Plan((LayerPlan(1, 2, 32 * number),) * 2)
        name = f"a{number}"
        files[name] = tmp_path / name
        adapter = make_adapter(files[name], a, plan, seed=number)
        levels.append(with_adapter(a, Level(number / 10, plan, 0.0), name, adapter))
    levels.append(Level(1.0, Plan.full(a), 1.0))
    engine = engine_of(write_bundle(tmp_path / "b", model, levels, {}, files))
    assert engine.memory.adapters == 0
    first = [engine.forward(level, [Span(0, TOKENS, 0)]) for level in levels]
    sizes = [adapter.nbytes for adapter in engine._adapters._owned]
    assert len(sizes) == len(levels) - 1
    assert 0 < engine.memory.adapters <= max(budget, max(sizes))
    assert (engine.memory.adapters == sum(sizes)) == (sum(sizes) <= budget)
    for level, expected in zip(levels, first, strict=True):
        np.testing.assert_array_equal(engine.forward(level, [Span(0, TOKENS, 0)]), expected)
    engine.close()


def test_a_bundle_made_again_meanwhile_changes_nothing(tmp_path: Path) -> None:
    """Adapters are read when a level first runs; the model's weights were mapped before."""
    bundle = adapted_bundle(tmp_path / "old", "F32", hidden=128)
    level = bundle.levels[0]
    engine = engine_of(bundle)
    expected = engine.forward(level, [Span(0, TOKENS, 0)])
    engine.close()
    engine = engine_of(bundle)
    assert level.adapter is not None
    make_adapter(tmp_path / "other", bundle.architecture, level.plan, "Q8_0", seed=99)
    (tmp_path / "other").replace(bundle.path / level.adapter)
    np.testing.assert_array_equal(engine.forward(level, [Span(0, TOKENS, 0)]), expected)
    engine.close()


def test_a_level_of_another_bundle_is_refused(plain: Bundle) -> None:
    engine = engine_of(plain)
    level = Level(0.3, SMALL, 0.3, adapter="adapter-0.4.gguf")
    with pytest.raises(UnknownLevelError, match=r"has no adapter 'adapter-0\.4\.gguf'"):
        engine.forward(level, [Span(0, [1], 0)])
    engine.close()
