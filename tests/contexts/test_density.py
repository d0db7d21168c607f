"""Density of chunks: which positions a call's last queries attended to."""

from pathlib import Path

import numpy as np
import pytest

from pliant.bundle import Plan, open_bundle
from pliant.contexts.density import PROBE_TOKENS, attention_received, chunk_densities
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from support.tiny_gguf import make_tiny_gguf

TOKENS = np.random.default_rng(2).integers(6, 300, 100).tolist()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory):
    path: Path = make_tiny_gguf(tmp_path_factory.mktemp("density") / "m.gguf", type="F32")
    engine = Engine(open_bundle(path), EngineOptions(threads=1, slots=2))
    yield engine
    engine.close()


def test_only_the_last_queries_count(engine: Engine) -> None:
    plan = Plan.full(engine.architecture)
    engine.forward(plan, [Span(1, TOKENS, 0)])
    found = attention_received(engine, plan, 1, TOKENS)
    start = len(TOKENS) - PROBE_TOKENS
    single = [
        engine.attention_power(plan, Span(1, [TOKENS[position]], position))
        for position in range(start, len(TOKENS))
    ]
    padded = [np.pad(one, (0, len(TOKENS) - len(one))) for one in single]
    np.testing.assert_allclose(found, np.mean(padded, axis=0), atol=1e-4)


def test_short_contexts_are_asked_whole(engine: Engine) -> None:
    plan = Plan.full(engine.architecture)
    engine.forward(plan, [Span(0, TOKENS[:5], 0)])
    found = attention_received(engine, plan, 0, TOKENS[:5])
    assert found.shape == (5,)
    assert found[0] == found.max()


def test_what_is_attended_to_is_dense(engine: Engine) -> None:
    """Long keys: some queries cannot but attend to them."""
    plan = Plan.full(engine.architecture)
    engine.forward(plan, [Span(0, TOKENS, 0)])
    before = chunk_densities(attention_received(engine, plan, 0, TOKENS), 16)
    keys = engine.kv.rows[0::2, 32:48].view(np.float16)
    keys[:] *= 8
    after = chunk_densities(attention_received(engine, plan, 0, TOKENS), 16)
    assert np.argmax(after) == 2
    assert after[2] > 2 * before[2]


def test_chunks_are_whole() -> None:
    received = np.arange(10, dtype=np.float32)
    assert chunk_densities(received, 4) == [6.0, 22.0]
    assert chunk_densities(received[:3], 4) == []
