"""Which part of a prompt is its last question."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.tlm.question import MAX_QUESTION_CHARS, question_ranges

LONG = "All of this is said at length, word by word, and asks nobody anything. " * 12


def questions(text: str, *, is_message: bool = True) -> list[str]:
    return [text[start:end] for start, end in question_ranges(text, is_message=is_message)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n ", []),
        ("turn airplane mode off", ["turn airplane mode off"]),
        # The built-in model's prompts.
        (
            "Apps:\nUber\nBBC\nRequest: Now check the version.",
            ["Apps:", "Request: Now check the version."],
        ),
        (
            "On screen:\nRequest: Ada asks for $3.\nRequest: pay? Thanks",
            ["On screen:", "Request: pay?", "Request: pay? Thanks"],
        ),
        # The question first, the material after it.
        ("Who wrote this?\n" + LONG, ["Who wrote this?", LONG.split(". ")[-2].strip() + "."]),
        (
            "Summarise this text:\n" + LONG + "\nThe end.",
            ["Summarise this text:", "The end."],
        ),
        # A long last line gives its last sentence.
        (LONG + 'Who asks "What now?"', ['Who asks "What now?"'] * 2),
        ("天气怎么样？今天下雨。\n谢谢", ["天气怎么样？", "谢谢"]),
        ("a\nhttps://x.y/?q=1 is slow\n", ["https://x.y/?q=1 is slow"]),
    ],
)
def test_of_a_message(text: str, expected: list[str]) -> None:
    assert questions(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The quick brown fox jumps over the lazy dog.", []),
        ("Is the fox quick?", ["Is the fox quick?"]),
        ("The fox is quick. Say why.", ["Say why."]),
        ("The fox is quick.\nNo. Say why.", ["No. Say why."]),
        ("The fox is quick.\nSay why", ["Say why"]),
    ],
)
def test_of_a_bare_text(text: str, expected: list[str]) -> None:
    assert questions(text, is_message=False) == expected


@settings(deadline=None)
@given(st.text(st.sampled_from("ab ?.!:\n？。)\"'")), st.booleans())
def test_ranges_are_short_and_without_space_around(text: str, is_message: bool) -> None:
    for start, end in question_ranges(text, is_message=is_message):
        assert 0 <= start < end <= min(len(text), start + MAX_QUESTION_CHARS)
        assert text[start:end] == text[start:end].strip()


@settings(deadline=None)
@given(st.text(st.sampled_from("ab .\n"), max_size=300))
def test_the_last_line_of_a_short_message_is_always_in_it(text: str) -> None:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    assert questions(text)[-1:] == lines[-1:]
