"""Every layout and level against the mapped weights, and what each layout costs in memory."""

from pathlib import Path

import numpy as np
import pytest

from pliant.bundle import Bundle, LayerPlan, Level, Plan, cost_ratio, open_bundle, write_bundle
from pliant.engine.engine import Engine
from pliant.engine.layout import LayoutPolicy
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from pliant.engine.weights import MAX_SEGMENTS, segment_bounds
from pliant.ggml.types import GgmlType
from support.tiny_gguf import make_tiny_gguf

TOKENS = np.random.default_rng(5).integers(6, 300, 60).tolist()
WIDTHS = ((1, 256), (2, 512), (3, 768), (4, 1024))
# Rearranged products round activations in other groups; K-quants also differ by batch size.
LAYOUT_TOLERANCE = 0.06


def elastic_bundle(folder: Path, type_: str) -> Bundle:
    """A bundle with four levels whose widths are whole blocks of every type."""
    model = make_tiny_gguf(
        folder / f"{type_}.gguf",
        hidden=256,
        heads=8,
        kv_heads=4,
        head_dim=128,
        ff=1024,
        type=type_,
    )
    architecture = open_bundle(model).architecture
    plans = [Plan((LayerPlan(kv_heads, 2, ff),) * 2) for kv_heads, ff in WIDTHS]
    costs = [cost_ratio(architecture, plan) for plan in plans]
    names = [0.25, 0.5, 0.75, 1.0]
    levels = [Level(*row) for row in zip(names, plans, costs, strict=True)]
    return write_bundle(folder / f"{type_}-bundle", model, levels, {})


@pytest.fixture(scope="module", params=["Q4_0", "Q4_K", "Q8_0", "F16"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return elastic_bundle(tmp_path_factory.mktemp("layouts"), request.param)


def all_levels(bundle: Bundle, layout: str) -> list[np.ndarray]:
    engine = Engine(bundle, EngineOptions(threads=1, layout=layout))  # type: ignore[arg-type]
    logits = []
    for level in bundle.levels:
        batch = engine.forward(level.plan, [Span(0, TOKENS, 0, "all")])
        steps = [engine.forward(level.plan, [Span(1, [t], i)]).copy() for i, t in enumerate(TOKENS)]
        assert relative(np.concatenate(steps), batch) < LAYOUT_TOLERANCE
        logits.append(batch)
    engine.close()
    return logits


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.ptp(b))


@pytest.mark.parametrize("layout", ["repacked", "auto"])
def test_layouts_agree_at_every_level_and_batch_size(bundle: Bundle, layout: str) -> None:
    for ours, plain in zip(all_levels(bundle, layout), all_levels(bundle, "plain"), strict=True):
        assert relative(ours, plain) < LAYOUT_TOLERANCE


def test_the_plain_layout_copies_nothing(bundle: Bundle) -> None:
    engine = Engine(bundle, EngineOptions(layout="plain"))
    assert engine.memory.copied == 0
    assert engine.memory.mapped == bundle.gguf.path.stat().st_size
    engine.close()


def test_the_repacked_layout_copies_each_matrix_at_most_once(bundle: Bundle) -> None:
    engine = Engine(bundle, EngineOptions(layout="repacked"))
    assert 0 < engine.memory.copied <= engine.memory.mapped
    engine.close()


def test_matrices_are_cut_at_the_widths_of_the_levels(bundle: Bundle) -> None:
    bounds = segment_bounds(bundle.architecture, bundle.levels)
    assert bounds == [{"attn_output": (256, 512, 768), "ffn_down": (256, 512, 768)}] * 2


def test_cuts_are_limited_and_spread_evenly(bundle: Bundle) -> None:
    full = bundle.levels[-1].plan
    many = [Plan((LayerPlan(4, 2, 32 * n),) * 2) for n in range(1, 32)]
    levels = tuple(Level(0.5, plan, 0.5) for plan in [*many, full])
    for cuts in segment_bounds(bundle.architecture, levels):
        assert len(cuts["ffn_down"]) == MAX_SEGMENTS - 1
        widths = np.diff([0, *cuts["ffn_down"], 1024])
        assert widths.max() <= 3 * widths.min()
        assert cuts["attn_output"] == ()


def test_auto_keeps_prompts_on_the_mapped_weights_where_ggml_tiles_them() -> None:
    auto = LayoutPolicy("auto", 1 << 30, has_tiled_product=True)
    assert auto.plain_from(GgmlType.Q4_K, repacked=True) is not None
    assert auto.plain_from(GgmlType.Q4_0, repacked=True) is None
    assert LayoutPolicy("auto", 1 << 30, False).plain_from(GgmlType.Q4_K, repacked=True) is None
    assert LayoutPolicy("repacked", 1 << 30, True).plain_from(GgmlType.Q4_K, repacked=True) is None


def test_a_small_model_is_cut_only_where_rearranging_demands_it() -> None:
    small, large = (LayoutPolicy("auto", size, True) for size in (1 << 20, 1 << 30))
    assert not small.cuts(repacked=False)
    assert small.cuts(repacked=True)
    assert large.cuts(repacked=False)
