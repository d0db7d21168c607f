"""Names, as far as writing shows them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.tlm.names import are_names


def names(text: str) -> list[str]:
    """Of a text whose words are between single spaces; / is a line break."""
    words = text.replace(" / ", " /").split(" ")
    gaps = ["\n" if word.startswith("/") else " " for word in words]
    words = [word.removeprefix("/") for word in words]
    return [w for w, is_name in zip(words, are_names(words, gaps), strict=True) if is_name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The dog met Anna. It barked.", ["Anna."]),
        ("Gloria Baker called", ["Gloria", "Baker"]),
        ("I think I'm in Porto, yes", ["Porto,"]),
        ("use YouTube or NASA on an iPhone", ["YouTube", "NASA", "iPhone"]),
        ("ask @ada about #porto and #1", ["@ada", "#porto"]),
        ('he said "Hello there" to Ben\'s cat', ["Ben's"]),
        ("call Ben / Ben is here / Dogs bark", ["Ben", "Ben"]),
        ("- Item one / - Other", []),
        ("Ride: Thea picks you up", ["Ride:", "Thea"]),
        ("THIS IS LOUD SAYS Anna", ["Anna"]),
        ("встретил Анну в москве", ["Анну"]),
        ("我在北京", []),
        ("... !!!", []),
    ],
)
def test_examples(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(min_size=1, max_size=4), st.sampled_from([" ", "\n", ""]))))
def test_one_answer_for_each_word(pairs: list[tuple[str, str]]) -> None:
    words, gaps = [w for w, _ in pairs], [g for _, g in pairs]
    found = are_names(words, gaps)
    assert len(found) == len(words)
    assert not any(is_name and word.isdigit() for word, is_name in zip(words, found, strict=True))
