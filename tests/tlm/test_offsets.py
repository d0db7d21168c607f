"""Where tokens lie, held against their bytes, one by one."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.bundle import open_bundle
from pliant.engine.tokenizer import Tokenizer
from pliant.tlm.offsets import readable, token_ranges
from support.sentencepiece_gguf import make_sentencepiece_gguf

TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from(" aé学🙂\n")))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(open_bundle("pocket").gguf.path)


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_a_token_is_the_characters_that_its_bytes_are_of(tokenizer: Tokenizer, text: str) -> None:
    owners = [index for index, c in enumerate(text) for _ in c.encode()]
    position = 0
    expected = []
    for token in tokenizer.encode(text):
        size = len(tokenizer.piece(token))
        mine = owners[position : position + size]
        expected.append((mine[0], mine[-1] + 1))
        position += size
    assert token_ranges(tokenizer, text) == expected


def test_a_space_that_the_tokenizer_puts_in_front_is_none_of_the_text(tmp_path: Path) -> None:
    path = make_sentencepiece_gguf(tmp_path / "sp.gguf")
    text = "the cat sat"
    with Tokenizer(path) as tokenizer:
        ranges = token_ranges(tokenizer, text)
        pieces = [tokenizer.piece(t) for t in tokenizer.encode(text, add_bos=False)]
    assert pieces[0].startswith(b" ")
    assert "".join(text[a:b] for a, b in ranges) == text


def test_surrogates_have_no_bytes() -> None:
    assert readable("a\ud800b\udfffc🙂") == "a\ufffdb\ufffdc🙂"
