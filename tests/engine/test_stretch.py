"""One graph for all lengths computes, to the bit, what a graph made for each length does."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pliant.bundle import FAMILIES, Level, open_bundle
from pliant.bundle.plan import Plan
from pliant.engine import graphs
from pliant.engine.engine import Engine
from pliant.engine.graphs import GraphCache
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from support.adapted_bundle import adapted_bundle
from support.family_shapes import GAPS, SHAPE, SIZES, SPECIAL, plan_of
from support.tiny_gguf import make_tiny_gguf

TOKENS = np.random.default_rng(11).integers(6, 300, 700).tolist()
LENGTHS = (300, 24, 200, 33, 47, 511, 300, 64)


def runs(engine: Engine, size: Plan | Level) -> list[np.ndarray]:
    """Prompts of many lengths, behind other tokens or not, each with a step after it."""
    found = []
    for start in (0, 150):
        for length in LENGTHS:
            tokens = TOKENS[length : length + length][:length]
            if start:
                engine.forward(size, [Span(0, TOKENS[:start], 0, "none")])
            found.append(engine.forward(size, [Span(0, tokens, start)]).copy())
            found.append(engine.forward(size, [Span(0, [7], start + len(tokens))]).copy())
    return found


def compute(engine: Engine, size: Plan | Level, kind: str, span: Span) -> list[np.ndarray]:
    """What an engine does with a span, and four steps after it."""
    if kind == "quiet":
        engine.forward(size, [replace(span, outputs="none")])
    elif kind == "layers":
        with closing(engine.layer_steps(size, [span])) as steps:
            for index in range(engine.architecture.num_layers):
                steps.compute(index)
    found = [] if kind in ("quiet", "layers") else [engine.forward(size, [span]).copy()]
    if kind == "power":
        found += engine.attention_power(size, replace(span, tokens=span.tokens[:40]))
    end = span.start + len(span.tokens)
    for position in range(end, end + 4):
        found.append(engine.forward(size, [Span(span.slot, [9], position)]).copy())
    return found


def mixed_runs(engine: Engine, sizes: Sequence[Plan | Level]) -> list[np.ndarray]:
    """All that an engine can be asked for, in random order, over three slots."""
    random, found, filled = np.random.default_rng(5), [], [0, 0, 0]
    for _ in range(40):
        slot, length = int(random.integers(3)), int(random.integers(1, 300))
        size = sizes[int(random.integers(len(sizes)))]
        start = int(random.choice([0, filled[slot] // 2, filled[slot]]))
        if start + length + 4 > engine.context_length:
            start = 0
        kind = str(random.choice(["prompt", "quiet", "power", "layers", "copied"]))
        found += compute(engine, size, kind, Span(slot, TOKENS[length : 2 * length], start))
        filled[slot] = start + length + 4
        if kind == "copied":
            target = (slot + 1) % 3
            engine.copy_slot(slot, target, filled[slot])
            filled[target] = filled[slot]
    return found


def check(path: Path, size: Plan | Level, monkeypatch: pytest.MonkeyPatch, **options) -> None:
    bundle, options = open_bundle(path), EngineOptions(threads=1, **options)
    with closing(Engine(bundle, options)) as engine:
        stretched = runs(engine, size)
        num_prompts = len(engine._graphs._prompts)
        assert not engine._graphs._rigid
    with monkeypatch.context() as patched, closing(Engine(bundle, options)) as engine:
        patched.setattr(graphs, "_SHORT_PROMPT", 10**6)
        expected = runs(engine, size)
        assert len(engine._graphs._prompts) > num_prompts
    for one, other in zip(stretched, expected, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("layers", [SIZES, GAPS], ids=["sizes", "gaps"])
def test_every_family(
    family: str, layers: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    make_tiny_gguf(path, family=family, type="Q8_0", **{**SHAPE, **SPECIAL.get(family, {})})
    with closing(Engine(open_bundle(path), EngineOptions(threads=1))) as engine:
        plan = plan_of(layers, engine)
    check(path, plan, monkeypatch)


@pytest.mark.parametrize("type_", ["Q4_0", "Q4_K"])
@pytest.mark.parametrize("layout", ["auto", "plain", "repacked"])
def test_every_layout(
    type_: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    make_tiny_gguf(path, type=type_, **{**SHAPE, "ff": 1024})
    check(path, Plan.full(open_bundle(path).architecture), monkeypatch, layout=layout)


def test_with_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = adapted_bundle(tmp_path, "Q8_0", "Q8_0", context=1024)
    for level in bundle.levels[:2]:
        check(bundle.path, level, monkeypatch)


@pytest.mark.parametrize("kind", ["adapters", "windows"])
def test_among_all_that_an_engine_does(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for few graphs, whose memory moves as it grows."""
    if kind == "adapters":
        bundle = adapted_bundle(tmp_path, "Q8_0", "Q8_0", context=700)
        sizes: Sequence[Plan | Level] = bundle.levels
    else:
        features = {**SHAPE, **SPECIAL["gemma3"], "context": 700}
        bundle = open_bundle(make_tiny_gguf(tmp_path / "m.gguf", family="gemma3", **features))
        with closing(Engine(bundle, EngineOptions(threads=1))) as engine:
            sizes = [Plan.full(bundle.architecture), plan_of(SIZES, engine)]
    found = []
    for shortest in (graphs._SHORT_PROMPT, 10**6):
        with monkeypatch.context() as patched:
            patched.setattr(graphs, "_SHORT_PROMPT", shortest)
            patched.setattr(graphs, "_MAX_PROMPTS", 2)
            patched.setattr(graphs, "_MAX_STEPS", 2)
            patched.setattr(GraphCache, "_reserve", lambda cache, max_batch: None)
            with closing(Engine(bundle, EngineOptions(threads=1, slots=3))) as engine:
                found.append(mixed_runs(engine, sizes))
                assert engine._graphs._allocator.generation > 2
    for one, other in zip(*found, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("context_length", [1, 23, 24, 25])
def test_contexts_about_as_long_as_the_shortest_prompt(tmp_path: Path, context_length: int) -> None:
    bundle = open_bundle(make_tiny_gguf(tmp_path / "m.gguf"))
    options = EngineOptions(threads=1, context_length=context_length)
    with closing(Engine(bundle, options)) as engine:
        whole = engine.forward(bundle.levels[-1], [Span(0, TOKENS[:context_length], 0)])
        for position in range(context_length):
            last = engine.forward(bundle.levels[-1], [Span(1, [TOKENS[position]], position)])
        assert np.abs(whole - last).max() < 1e-3 * np.ptp(last)
