"""WordPiece against Hugging Face's BERT tokenizer: the same tokens at the same places."""

import unicodedata
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pliant.errors import BundleError
from pliant.tlm.wordpiece import WordPiece
from support.tiny_tlm import minilm, pieces, wordpiece

MIXED = [
    "Hello, World! It's 3.14 — naïve café Straße İstanbul ΣΊΣΥΦΟΣ",
    "日本語のテキストと漢字。한국어 텍스트 \U00020000\U0002a6df 𠮷",
    "emoji 😀👩‍👩‍👧 \u200b zero\u00adwidth\ufeff a\x00b c\x07d",
    "tab\tnew\nline\r x\u2028y\u3000z\x0bq\x0c\x85\xa0",
    "हिन्दी ประเทศไทย العَرَبِيَّة עִבְרִית á̧ ǆ ﬁ ½ ²",
    "$+<=>^`|~ €£¥ «»“”… ÅΩ ⅷ ㍿ 𝒜𝓑 𐐀",
    "x" * 100 + " " + "y" * 101,
    "supercalifragilisticexpialidocious",
    "",
    " \t ",
]


@cache
def ours(*, lowercase: bool) -> WordPiece:
    return WordPiece(pieces(wordpiece(lowercase=lowercase)), lowercase=lowercase)


def compare(reference: Tokenizer, own: WordPiece, text: str) -> None:
    expected = reference.encode(text, add_special_tokens=False)
    found = own(text)
    assert found.ids == expected.ids
    assert list(zip(found.starts, found.ends, strict=True)) == expected.offsets


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("text", MIXED)
def test_mixed_texts(text: str, lowercase: bool) -> None:
    compare(wordpiece(lowercase=lowercase), ours(lowercase=lowercase), text)


# Characters that every version of Unicode has seen alike: the reference brings tables of its own.
STABLE = st.characters(exclude_categories=["Cs", "Cn"]).filter(
    lambda char: unicodedata.category(char) == unicodedata.ucd_3_2_0.category(char)
)


@settings(max_examples=400, deadline=None)
@given(text=st.text(st.one_of(STABLE, st.sampled_from("aeT .,'-\n"))), lowercase=st.booleans())
def test_any_text(text: str, lowercase: bool) -> None:
    compare(wordpiece(lowercase=lowercase), ours(lowercase=lowercase), text)


@pytest.mark.parametrize("text", [*MIXED, "The embedding of [SEP]tember isn't unaffable."])
def test_a_real_vocabulary(text: str) -> None:
    folder = minilm()
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.no_truncation()
    reference.no_padding()
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    compare(reference, WordPiece(vocabulary, lowercase=True), text.replace("[SEP]", "[ SEP ]"))


def test_names_of_special_tokens_in_a_text_stay_text() -> None:
    vocabulary = pieces(wordpiece())
    special = {vocabulary.index("[CLS]"), vocabulary.index("[SEP]")}
    assert not special & set(ours(lowercase=True)("[CLS] one [SEP] two").ids)


def test_lone_surrogates_are_passed_over() -> None:
    found = ours(lowercase=True)("on \udcff the \ud800wifi")
    assert (found.starts[0], found.ends[-1]) == (0, 14)


def test_a_vocabulary_without_a_frame_is_refused() -> None:
    with pytest.raises(BundleError, match=r"\[UNK\], \[CLS\]"):
        WordPiece(["a", "[SEP]"], lowercase=True)
