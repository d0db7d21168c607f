"""Words: what compression keeps or drops whole."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.tlm.words import word_ranges

TEXTS = st.text(st.one_of(st.characters(), st.sampled_from(" \n,;|—aB1学行しカー。、\\กิé")))


def words(text: str) -> list[str]:
    return [text[start:end] for start, end in word_ranges(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t", []),
        ("It's $348.31, paid.", ["It's", "$348.31,", "paid."]),
        ("a,b;c|d—e…f", ["a,", "b;", "c|", "d—", "e…", "f"]),
        ("12,692 and 1,2", ["12,692", "and", "1,2"]),
        ("https://a.b/c?d=e", ["https://a.b/c?d=e"]),
        # Chinese by character, Japanese with the hiragana that belongs to the characters.
        ("我们学校。好", ["我", "们", "学", "校。", "好"]),
        ("学校へ行きました、カメラで", ["学校へ", "行きました、", "カメラ", "で"]),
        ("ラーメン", ["ラーメン"]),
        ("GPUで計算する", ["GPU", "で", "計算する"]),
        ("안녕하세요 세계", ["안녕하세요", "세계"]),
        ("สวัสดี ครับ", ["สวัสดี", "ครับ"]),
        # Marks stay on their characters, an escape of JSON in one piece.
        ("か\u3099く e\u0301te\u0301", ["か\u3099く", "e\u0301te\u0301"]),
        ("学\\n行", ["学", "\\n", "行"]),
        ("👩‍👩‍👧 ok", ["👩‍👩‍👧", "ok"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@settings(deadline=None)
@given(TEXTS)
def test_words_are_all_but_the_space_in_order(text: str) -> None:
    position = 0
    for start, end in word_ranges(text):
        assert position <= start < end
        assert not text[position:start].strip()
        assert not any(map(str.isspace, text[start:end]))
        position = end
    assert not text[position:].strip()


@settings(deadline=None)
@given(TEXTS, st.integers(0, 20), st.integers(0, 20))
def test_a_part_has_the_words_of_that_part(text: str, a: int, b: int) -> None:
    start, end = sorted((min(a, len(text)), min(b, len(text))))
    found = [(first - start, last - start) for first, last in word_ranges(text, start, end)]
    assert found == list(word_ranges(text[start:end]))


@pytest.mark.parametrize("pattern", ["学", "学し", "し", "a", "a,", "!", ",", "—", "カ", "学。"])
def test_a_text_without_spaces_takes_no_quadratic_time(pattern: str) -> None:
    def seconds(length: int) -> float:
        started = time.process_time()
        list(word_ranges(pattern * length))
        return time.process_time() - started

    seconds(1000)
    # Quadratic time would be minutes.
    assert seconds(200_000) < 5
