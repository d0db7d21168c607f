"""One graph for all lengths computes, to the bit, what a graph made for each length does."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from engine.test_adapters import adapted_bundle
from engine.test_families import GAPS, SHAPE, SIZES, SPECIAL, plan_of
from pliant.bundle import FAMILIES, Level, open_bundle
from pliant.bundle.plan import Plan
from pliant.engine import graphs
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from support.tiny_gguf import make_tiny_gguf

TOKENS = np.random.default_rng(11).integers(6, 300, 700).tolist()
LENGTHS = (300, 32, 200, 33, 47, 511, 300, 64)


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
