"""The tokenizer that a tiny language model shares with the model it lies beside."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.engine.tokenizer import Tokenizer
from pliant.tlm.tokenizers import SharedTokenizer
from support.sentencepiece_gguf import make_sentencepiece_gguf
from support.tiny_gguf import make_tiny_gguf
from support.tiny_tlm import TEXTS


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokenizer]:
    with Tokenizer(make_tiny_gguf(tmp_path_factory.mktemp("tlm") / "m.gguf")) as tokenizer:
        yield tokenizer


def check_places(tokenizer: Tokenizer, text: str) -> None:
    """Every character belongs to one token, and each token's piece is the text at its place."""
    found = SharedTokenizer(tokenizer)(text)
    places = list(zip(found.starts, found.ends, strict=True))
    assert all(start <= end for start, end in places)
    assert found.starts[1:] == found.ends[:-1]
    if text:
        assert (found.starts[0], found.ends[-1]) == (0, len(text))
    for token, (start, end) in zip(found.ids, places, strict=True):
        piece = tokenizer.piece(token)
        if piece.isascii() and end - start == len(piece):
            assert text[start:end] == piece.decode()


@pytest.mark.parametrize("text", TEXTS)
def test_places(byte_level: Tokenizer, text: str) -> None:
    check_places(byte_level, text)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters()))
def test_places_in_any_text(byte_level: Tokenizer, text: str) -> None:
    check_places(byte_level, text)


@pytest.mark.parametrize("text", TEXTS)
def test_a_space_that_the_vocabulary_puts_in_front_is_no_character(
    tmp_path: Path, text: str
) -> None:
    with Tokenizer(make_sentencepiece_gguf(tmp_path / "m.gguf")) as tokenizer:
        check_places(tokenizer, text)
