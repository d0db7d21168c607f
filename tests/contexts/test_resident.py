"""What a slot is said to hold, against a plain list of tokens and levels; spans of a context."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.bundle import LayerPlan, Plan
from pliant.contexts.identity import CHUNK_TOKENS, KeySpace, LevelIdentity
from pliant.contexts.resident import ResidentSlot
from pliant.contexts.spans import ChunkSpan, chunk_spans

CAPACITY = 40
LEVELS = (0.3, 0.5, 1.0)
TOKENS = st.lists(st.integers(0, 2), max_size=CAPACITY)

SPACE = KeySpace(
    "model", tuple(LevelIdentity(r, Plan((LayerPlan(1, 1, 32),)), str(r)) for r in LEVELS), "f16"
)


@st.composite
def operations(draw: st.DrawFn) -> list[tuple]:
    made = []
    for _ in range(draw(st.integers(1, 12))):
        start = draw(st.integers(0, CAPACITY - 1))
        stop = draw(st.integers(start, CAPACITY))
        level = draw(st.sampled_from(LEVELS))
        kind = draw(st.sampled_from(["expect", "mark", "append"]))
        made.append((kind, draw(TOKENS), start, stop, level))
    return made


@given(operations())
@settings(max_examples=200, deadline=None)
def test_a_slot_remembers_as_a_plain_list_does(made: list[tuple]) -> None:
    slot = ResidentSlot(0, CAPACITY)
    plain: list[tuple[int, float]] = [(0, 0.0)] * CAPACITY
    for kind, tokens, start, stop, level in made:
        if kind == "expect":
            slot.expect(tokens)
            same = 0
            while same < len(tokens) and plain[same][0] == tokens[same]:
                same += 1
            for i in range(same, CAPACITY):
                plain[i] = (tokens[i] if i < len(tokens) else plain[i][0], 0.0)
        elif kind == "mark":
            slot.mark(start, stop, level)
            plain[start:stop] = [(token, level) for token, _ in plain[start:stop]]
        else:
            tokens = tokens[: CAPACITY - start]
            slot.append(tokens, start, level)
            plain[start:] = [(token, 0.0) for token, _ in plain[start:]]
            plain[start : start + len(tokens)] = [(token, level) for token in tokens]
        have = [level for _, level in plain]
        assert slot.length == max((i + 1 for i in range(CAPACITY) if have[i]), default=0)
        for wanted in LEVELS:
            lacking = [i for i in range(CAPACITY) if have[i] < wanted]
            assert slot.computed(wanted, CAPACITY) == (lacking[0] if lacking else CAPACITY)
            assert slot.has(start, stop, wanted) == all(h >= wanted for h in have[start:stop])
            spans = [ChunkSpan(bytes([i]), i, i + 8, 1.0) for i in range(0, CAPACITY, 8)]
            missing = [s for s in spans if min(have[s.start : s.stop]) < wanted]
            assert slot.missing(spans, wanted) == missing


@pytest.mark.parametrize("length", [0, 1, CHUNK_TOKENS, 3 * CHUNK_TOKENS + 5])
def test_spans_cover_everything_once(length: int) -> None:
    tokens = np.random.default_rng(0).integers(0, 99, length).tolist()
    levels = [1.0] * (length // 2) + [0.5] * (length - length // 2)
    spans = chunk_spans(SPACE, tokens, levels)
    assert [i for span in spans for i in range(span.start, span.stop)] == list(range(length))
    assert len({span.key for span in spans}) == len(spans)
    assert all(span.level == min(levels[span.start : span.stop]) for span in spans)
    assert [span.is_whole for span in spans] == [True] * (length // CHUNK_TOKENS) + [False] * (
        length % CHUNK_TOKENS > 0
    )


def test_the_leftover_is_known_by_all_before_it_and_by_its_levels() -> None:
    tokens, levels = list(range(70)), [1.0] * 70
    key = chunk_spans(SPACE, tokens, levels)[-1].key
    assert chunk_spans(SPACE, tokens, levels)[-1].key == key
    for other_tokens, other_levels in (
        ([9, *tokens[1:]], levels),
        ([*tokens[:69], 9], levels),
        (tokens, [*levels[:69], 0.5]),
        (tokens[:69], levels[:69]),
    ):
        assert chunk_spans(SPACE, other_tokens, other_levels)[-1].key != key
