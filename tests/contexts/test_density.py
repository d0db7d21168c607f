"""Density of heads: which of them attend to what lies far back."""

from pathlib import Path

import numpy as np
import pytest

from pliant.bundle import Plan, open_bundle
from pliant.contexts.density import NEAR_TOKENS, PROBE_TOKENS, head_densities
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from support.tiny_gguf import make_tiny_gguf

TOKENS = np.random.default_rng(2).integers(6, 300, 200).tolist()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory):
    path: Path = make_tiny_gguf(tmp_path_factory.mktemp("density") / "m.gguf", type="F32")
    engine = Engine(open_bundle(path), EngineOptions(threads=1, slots=2))
    yield engine
    engine.close()


def test_only_the_last_queries_and_what_is_far_count(engine: Engine) -> None:
    plan = Plan.full(engine.architecture)
    engine.forward(plan, [Span(1, TOKENS, 0)])
    start = len(TOKENS) - PROBE_TOKENS
    single = [
        np.stack(engine.attention_power(plan, Span(1, [TOKENS[at]], at)))
        for at in range(start, len(TOKENS))
    ]
    far = start - NEAR_TOKENS
    expected = np.mean([one[..., :far].sum(axis=-1) for one in single], axis=0)
    found = head_densities(engine, plan, 1, TOKENS)
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-4)


def test_short_contexts_are_asked_whole(engine: Engine) -> None:
    plan = Plan.full(engine.architecture)
    engine.forward(plan, [Span(0, TOKENS[:5], 0)])
    power = engine.attention_power(plan, Span(0, TOKENS[:5], 0))
    found = head_densities(engine, plan, 0, TOKENS[:5])
    np.testing.assert_allclose(found, [layer.sum(axis=1) for layer in power])


def test_a_head_that_attends_to_far_tokens_is_dense(engine: Engine) -> None:
    """Long keys: some queries cannot but attend to them."""
    plan = Plan.full(engine.architecture)
    engine.forward(plan, [Span(0, TOKENS, 0)])
    before = head_densities(engine, plan, 0, TOKENS)
    dim = engine.architecture.head_dim
    keys = engine.kv.rows[2, 8:40].view(np.float16)
    keys[:, dim : 2 * dim] *= 16
    after = head_densities(engine, plan, 0, TOKENS)
    assert after[1][1] > 2 * before[1][1]
    assert after[0] == pytest.approx(before[0])
    assert after[1][0] == pytest.approx(before[1][0])
