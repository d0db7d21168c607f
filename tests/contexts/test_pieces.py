import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.contexts.pieces import History, Piece, decode, encode
from pliant.errors import JournalError, RequestError

pieces = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.5, 1.0])), min_size=1, max_size=80
).flatmap(
    lambda rows: st.builds(
        Piece,
        st.just([token for token, _ in rows]),
        st.just([level for _, level in rows]),
        st.sampled_from(["system", "user", "assistant", "tool"]),
    )
)


@given(pieces)
def test_pieces_come_back_as_they_were(piece: Piece) -> None:
    assert decode(encode(piece)) == piece


def test_one_level_takes_twelve_bytes_however_long() -> None:
    row = encode(Piece(range(1000), 0.3))
    assert (len(row.tokens), len(row.levels)) == (4000, 12)


@given(pieces, st.integers(0, 2**32 - 1))
def test_flipped_bits_are_noticed(piece: Piece, seed: int) -> None:
    row, source = encode(piece), random.Random(seed)
    field = source.choice(["tokens", "levels"])
    data = bytearray(getattr(row, field))
    data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    object.__setattr__(row, field, bytes(data))
    with pytest.raises(JournalError, match="checksum"):
        decode(row)


@pytest.mark.parametrize(
    ("tokens", "levels", "role", "message"),
    [
        ([], 1.0, "user", "at least one token"),
        ([1, 2], [1.0], "user", "2 tokens with 1 levels"),
        ([-1], 1.0, "user", "token ids"),
        ([2**32], 1.0, "user", "token ids"),
        ([1], 0.0, "user", "levels"),
        ([1], [1.5], "user", "levels"),
        ([1], float("nan"), "user", "levels"),
        ([1], 1.0, "robot", "'robot' is not one of"),
    ],
)
def test_bad_pieces_are_refused(tokens: list[int], levels: object, role: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Piece(tokens, levels, role)  # type: ignore[arg-type]


def test_a_history_is_its_pieces_in_order() -> None:
    history = History.of([Piece([1, 2], 1.0, "system"), Piece([3], 0.5)])
    assert (history.tokens, history.levels) == ((1, 2, 3), (1.0, 1.0, 0.5))
