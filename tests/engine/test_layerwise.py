"""Layers one at a time give the same bits as whole passes."""

from pathlib import Path

import numpy as np
import pytest

from pliant.bundle import FAMILIES, Bundle, LayerPlan, Level, Plan, open_bundle
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from pliant.errors import ContextOverflowError, RequestError
from support.adapters import add_adapters
from support.tiny_bundle import make_tiny_bundle
from support.tiny_gguf import make_tiny_gguf

TOKENS = np.random.default_rng(7).integers(6, 300, 700).tolist()
GAPS = (LayerPlan(0, 1, 0), LayerPlan(2, 1, 64), LayerPlan(0, 2, 32), LayerPlan(4, 2, 0))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("layerwise")
    shape = {"layers": 3, "hidden": 128, "heads": 8, "kv_heads": 4, "ff": 256, "context": 1024}
    return add_adapters(make_tiny_bundle(folder / "tiny", type="F16", **shape))


@pytest.fixture
def engine(bundle: Bundle):
    engine = Engine(bundle, EngineOptions(threads=1, slots=3))
    yield engine
    engine.close()


def rows(engine: Engine, slot: int, length: int) -> np.ndarray:
    """Keys and values of a slot's first tokens: bytes [planes, tokens, row]."""
    first = slot * engine.context_length
    return engine.kv.rows[:, first : first + length].copy()


def compute_layers(engine: Engine, size: Plan | Level, spans: list[Span]) -> None:
    """What other slots hold must not matter."""
    engine.forward(engine.bundle.levels[-1], [Span(2, TOKENS[::-2], 0, "none")])
    steps = engine.layer_steps(size, spans)
    for index in range(engine.architecture.num_layers):
        steps.compute(index)
    steps.close()


@pytest.mark.parametrize("ratio", [0.3, 0.5, 1.0])
def test_same_bits_as_a_whole_pass_at_every_level(engine: Engine, ratio: float) -> None:
    level = engine.bundle.level(ratio)
    engine.forward(level, [Span(0, TOKENS[:300], 0, "none")])
    expected = rows(engine, 0, 300)
    engine.release_slot(0)
    compute_layers(engine, level, [Span(1, TOKENS[:300], 0)])
    assert np.array_equal(expected, rows(engine, 1, 300))
    compute_layers(engine, level, [Span(0, TOKENS[:300], 0)])
    ours, theirs = (engine.forward(level, [Span(slot, [7], 300)]).copy() for slot in (0, 1))
    assert np.array_equal(ours, theirs)


def test_same_bits_for_more_than_a_batch(engine: Engine) -> None:
    level = engine.bundle.level(1.0)
    for start in (0, 512):
        engine.forward(level, [Span(0, TOKENS[start : start + 512], start, "none")])
    compute_layers(engine, level, [Span(1, TOKENS, 0)])
    assert np.array_equal(rows(engine, 0, 700), rows(engine, 1, 700))


def test_gaps_are_filled_a_layer_before_they_are_needed(engine: Engine) -> None:
    """Tokens 100..200 and 250..300 are computed; the rest of a layer is copied just before."""
    level = engine.bundle.level(1.0)
    engine.forward(level, [Span(0, TOKENS[:300], 0, "none")])
    engine.release_slot(1)
    steps = engine.layer_steps(
        level, [Span(1, TOKENS[100:200], 100), Span(1, TOKENS[250:300], 250)]
    )
    here, there = engine.context_length, 0
    for index in range(3):
        for plane in (2 * index, 2 * index + 1):
            for start, stop in ((0, 100), (200, 250)):
                source = engine.kv.rows[plane, there + start : there + stop]
                engine.kv.rows[plane, here + start : here + stop] = source
        steps.compute(index)
        engine.forward(level, [Span(2, TOKENS[:20], 0)])  # what others do between layers
    steps.close()
    whole = rows(engine, 0, 300).view(np.float16).astype(np.float32)
    parts = rows(engine, 1, 300).view(np.float16).astype(np.float32)
    # Products over other numbers of tokens add up in another order.
    assert np.abs(whole - parts).max() <= 0.01 * np.abs(whole).max()
    assert np.array_equal(whole[:, :100], parts[:, :100])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_and_layers_that_run_nothing(family: str, tmp_path: Path) -> None:
    features = {"window": 48} if family in ("gemma2", "gemma3") else {}
    path = make_tiny_gguf(
        tmp_path / "m.gguf", family=family, layers=6, hidden=128, heads=8, kv_heads=4, ff=96,
        context=512, **features,
    )  # fmt: skip
    engine = Engine(open_bundle(path), EngineOptions(threads=1))
    partial = Plan(tuple(GAPS[i % len(GAPS)] for i in range(6)))
    for plan in (Plan.full(engine.architecture), partial):
        engine.forward(plan, [Span(0, TOKENS[:120], 0, "none")])
        expected = rows(engine, 0, 120)
        for slot in (0, 1):
            engine.release_slot(slot)
        compute_layers(engine, plan, [Span(1, TOKENS[:120], 0)])
        assert np.array_equal(expected, rows(engine, 1, 120))
    engine.close()


def test_a_decode_goes_on_after_layers_were_computed(engine: Engine) -> None:
    level = engine.bundle.level(1.0)

    def decode(interrupted: bool) -> np.ndarray:
        engine.forward(level, [Span(0, TOKENS[:50], 0)])
        found = []
        for step in range(50, 54):
            found.append(engine.forward(level, [Span(0, TOKENS[step : step + 1], step)]).copy())
            if interrupted:
                compute_layers(engine, level, [Span(1, TOKENS[:70], 0)])
        return np.concatenate(found)

    assert np.array_equal(decode(False), decode(True))


def test_a_released_slot_reads_as_zeros_and_its_neighbours_stay(engine: Engine) -> None:
    level = engine.bundle.level(1.0)
    for slot in range(3):
        engine.forward(level, [Span(slot, TOKENS[:300], 0, "none")])
    before = rows(engine, 1, 300)
    engine.release_slot(1, 100)
    after = rows(engine, 1, 300)
    assert np.array_equal(after[:, :100], before[:, :100])
    assert not after[:, 200:].any()
    for slot in (0, 2):
        assert np.array_equal(rows(engine, slot, 300), before)


def test_bad_spans_are_refused(engine: Engine) -> None:
    level = engine.bundle.level(1.0)
    for spans in (
        [Span(0, TOKENS[:10], 5), Span(0, TOKENS[:10], 0)],
        [Span(0, TOKENS[:10], 0), Span(1, TOKENS[:10], 10)],
        [Span(9, TOKENS[:10], 0)],
    ):
        with pytest.raises(RequestError):
            engine.layer_steps(level, spans)
    with pytest.raises(ContextOverflowError):
        engine.layer_steps(level, [Span(0, TOKENS, 500)])
    engine.close()
    with pytest.raises(RequestError, match="closed"):
        engine.layer_steps(level, [Span(0, TOKENS[:10], 0)])
