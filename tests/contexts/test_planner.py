"""The split between reading and recomputing, against trying every split."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.contexts.planner import (
    Piece,
    StorageCost,
    plan_restore,
    predict_ms,
    recompute_ms,
    runs_of,
)
from pliant.slo.latency import DecodeCost, LevelLatency, PrefillCost

LAYERS = 12
TOKENS = 32


def level(token_ms: float, pair_ms: float = 0.0, chunk_ms: float = 0.0) -> LevelLatency:
    cost = PrefillCost(chunk_ms, token_ms, pair_ms)
    return LevelLatency(1.0, cost, cost, DecodeCost(1.0, 0.0))


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Piece], StorageCost, LevelLatency]:
    sizes = draw(st.lists(st.sampled_from([None, 0, 3_000, 6_000, 12_000]), max_size=8))
    decode_ms = draw(st.floats(0, 2))
    gaps = draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    pieces, start = [], 0
    for size, gap in zip(sizes, gaps, strict=True):
        start += TOKENS * gap
        pieces.append(Piece(start, start + TOKENS, size, decode_ms))
        start += TOKENS
    storage = StorageCost(draw(st.floats(0, 1)), draw(st.floats(50, 5_000)))
    return pieces, storage, level(draw(st.floats(0.001, 1)), draw(st.floats(0, 0.001)))


@given(situations())
@settings(max_examples=300, deadline=None)
def test_within_one_chunk_of_the_best_of_all_splits(
    situation: tuple[list[Piece], StorageCost, LevelLatency],
) -> None:
    pieces, storage, compute = situation
    made = plan_restore(pieces, storage, compute, LAYERS)
    kinds = {None: (True,), 0: (False,)}
    choices = [kinds.get(p.read_bytes, (False, True)) for p in pieces]
    best = min(
        predict_ms(pieces, split, steps, storage, compute)
        for split in product(*choices)
        for steps in (1, 2, 4, 8, 12)
    )
    one = max(
        (
            max(
                recompute_ms(compute, [(p.start, p.stop)]),
                storage.ms(p.read_bytes or 0, LAYERS) + p.decode_ms,
            )
            for p in pieces
        ),
        default=0.0,
    )
    assert best - 1e-9 <= made.predicted_ms <= best + one + 1e-9
    assert made.predicted_ms == pytest.approx(
        predict_ms(pieces, made.recompute, made.steps, storage, compute)
    )
    for piece, again in zip(pieces, made.recompute, strict=True):
        assert again or piece.read_bytes is not None


def test_no_chunk_is_worth_recomputing_on_a_fast_disk_and_every_one_on_a_dead_slow_one() -> None:
    pieces = [Piece(i * 32, i * 32 + 32, 10_000) for i in range(10)]
    fast = plan_restore(pieces, StorageCost(0.1, 1e6), level(4.0), LAYERS)
    slow = plan_restore(pieces, StorageCost(0.1, 1.0), level(0.01), LAYERS)
    assert not any(fast.recompute) and fast.steps == 1
    assert all(slow.recompute)


def test_an_even_match_is_shared_and_halves_the_time() -> None:
    pieces = [Piece(i * 32, i * 32 + 32, 32_000) for i in range(20)]
    made = plan_restore(pieces, StorageCost(0.0, 1_000), level(1.0), 64)
    assert sum(made.recompute) == 10
    assert made.predicted_ms < 0.55 * 20 * 32


def test_larger_chunks_are_the_ones_to_recompute() -> None:
    pieces = [Piece(i * 32, i * 32 + 32, 32_000 if i % 2 else 8_000) for i in range(10)]
    made = plan_restore(pieces, StorageCost(0.0, 1_000), level(1.0), LAYERS)
    again = [i for i, recompute in enumerate(made.recompute) if recompute]
    assert again and all(i % 2 for i in again)


def test_what_is_in_memory_is_decoded() -> None:
    pieces = [Piece(0, 32, 0, 0.1), Piece(32, 64, None), Piece(64, 96, 0, 0.1)]
    made = plan_restore(pieces, StorageCost(1.0, 1.0), level(1.0), LAYERS)
    assert made.recompute == (False, True, False)
    assert runs_of(pieces, made.recompute) == [(32, 64)]


def test_a_run_costs_what_a_prompt_of_its_length_does() -> None:
    compute = level(0.5, 0.001, 3.0)
    assert recompute_ms(compute, [(64, 192)]) == pytest.approx(compute.prefill_ms(128, 64))
    assert recompute_ms(compute, []) == 0
    twice = recompute_ms(compute, [(0, 512), (512, 1024)])
    assert twice == pytest.approx(compute.prefill_ms(512, 0) + compute.prefill_ms(512, 512))
