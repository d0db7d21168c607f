"""Keys differ where KV differs, and agree where it is shared."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.bundle import LayerPlan, Plan
from pliant.contexts.identity import CHUNK_TOKENS, KeySpace, LevelIdentity, chunk_keys
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.errors import UnknownLevelError
from support.tiny_bundle import make_tiny_bundle

SMALL = LevelIdentity(0.5, Plan((LayerPlan(1, 2, 64),) * 2), "cd" * 32)
FULL = LevelIdentity(1.0, Plan((LayerPlan(2, 2, 128),) * 2), None)
SPACE = KeySpace("ab" * 32, (SMALL, FULL), "f16")
TOKENS = [random.Random(0).randrange(1000) for _ in range(5 * CHUNK_TOKENS + 3)]
LEVELS = [1.0] * len(TOKENS)


def test_there_is_a_key_per_whole_chunk() -> None:
    for length in (0, CHUNK_TOKENS - 1, CHUNK_TOKENS, 5 * CHUNK_TOKENS + 3):
        keys = chunk_keys(SPACE, TOKENS[:length], LEVELS[:length])
        assert len(keys) == length // CHUNK_TOKENS
        assert all(len(key) == 32 for key in keys)


def test_a_longer_history_keeps_the_keys_of_the_shorter_one() -> None:
    keys = chunk_keys(SPACE, TOKENS, LEVELS)
    assert len(set(keys)) == 5
    stop = 3 * CHUNK_TOKENS + 7
    assert chunk_keys(SPACE, TOKENS[:stop], LEVELS[:stop]) == keys[:3]


@given(st.integers(0, 5 * CHUNK_TOKENS - 1), st.booleans())
def test_a_token_or_its_level_changes_its_chunk_and_all_after(where: int, level: bool) -> None:
    tokens, levels = list(TOKENS), list(LEVELS)
    if level:
        levels[where] = 0.5
    else:
        tokens[where] += 1
    before, after = chunk_keys(SPACE, TOKENS, LEVELS), chunk_keys(SPACE, tokens, levels)
    first = where // CHUNK_TOKENS
    assert before[:first] == after[:first]
    assert not set(before[first:]) & set(after)


@pytest.mark.parametrize(
    "other",
    [
        replace(SPACE, model_sha256="ef" * 32),
        replace(SPACE, kv_type="q8_0"),
        replace(SPACE, rope_factors="rope_factors_long.weight"),
        replace(SPACE, scope="another app"),
        replace(SPACE, levels=(SMALL, replace(FULL, adapter_sha256="cd" * 32))),
        replace(SPACE, levels=(SMALL, replace(FULL, plan=SMALL.plan))),
    ],
)
def test_another_space_shares_no_key(other: KeySpace) -> None:
    assert not set(chunk_keys(SPACE, TOKENS, LEVELS)) & set(chunk_keys(other, TOKENS, LEVELS))


def test_levels_that_computed_nothing_do_not_matter() -> None:
    other = replace(SPACE, levels=(FULL,))
    assert chunk_keys(other, TOKENS, LEVELS) == chunk_keys(SPACE, TOKENS, LEVELS)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UnknownLevelError, match="0.7 in a model with levels 0.5, 1"):
        chunk_keys(SPACE, TOKENS, [0.7] * len(TOKENS))
    with pytest.raises(ValueError, match="levels"):
        chunk_keys(SPACE, TOKENS, LEVELS[1:])


def test_the_space_of_an_engine_names_what_runs(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    engine = Engine(bundle, EngineOptions(threads=1, slots=1, kv_type="f16"))
    try:
        space = KeySpace.of(engine, "app")
    finally:
        engine.close()
    assert (space.model_sha256, space.kv_type, space.scope) == (bundle.sha256, "f16", "app")
    assert [level.ratio for level in space.levels] == [level.ratio for level in bundle.levels]
    assert [level.plan for level in space.levels] == [level.plan for level in bundle.levels]
