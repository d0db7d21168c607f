"""Compression with the built-in model's tokens and a real scorer: what holds for any text."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pliant
from pliant.engine.model import ElasticModel
from pliant.errors import BundleError, RequestError
from pliant.tlm.compress import Compressed, compress
from pliant.tlm.protect import EVERYTHING, STRUCTURE, Protect
from pliant.tlm.scores import TokenScore
from pliant.tlm.words import word_ranges

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _scorers import RandomWords, SelfInformation, Truncation

NOTHING = Protect(*[False] * 7)
WORDS = st.sampled_from(
    ["the", "cat", "Anna", "3", "x@y.org", "`a b`", "学校", "行き", "{", '"a":', "}", "is.", "why?"]
)
TEXTS = st.one_of(
    st.text(st.one_of(st.characters(), st.sampled_from(" \n.?aB1")), max_size=60),
    st.lists(st.tuples(WORDS, st.sampled_from([" ", " ", "\n", ""]))).map(
        lambda pairs: "".join(word + gap for word, gap in pairs)
    ),
)
RATIOS = st.floats(0.01, 1)
PROTECTS = st.sampled_from([EVERYTHING, STRUCTURE, NOTHING])
SCREEN = (
    "On screen:\nBank: You paid $374.94 at Homely\nRide: Thea picks you up at noon\n"
    "Music: Now playing Northern Line\nHealth: You walked far today\nRequest: who picks me up"
)


@settings(deadline=None, max_examples=60)
@given(TEXTS, RATIOS, PROTECTS)
def test_what_holds_for_any_text(
    pocket: ElasticModel, text: str, ratio: float, protect: Protect
) -> None:
    done = compress(text, ratio, model=pocket, protect=protect, scorer=RandomWords(0))
    assert done.text == "".join(text[start:end] for start, end in done.kept)
    assert is_in_order(done.kept, len(text))
    assert done.num_tokens <= done.num_original_tokens
    assert done.asked == ratio
    clean = done.text.encode("utf-8", "replace")
    if b"?" not in clean or done.text.isascii():
        assert done.num_tokens == len(pocket.tokenizer.encode(done.text))
    assert bool(text.strip()) == bool(done.text.strip())


@settings(deadline=None, max_examples=60)
@given(TEXTS, RATIOS)
def test_words_go_whole_and_the_ratio_is_met_within_one(
    pocket: ElasticModel, text: str, ratio: float
) -> None:
    done = compress(text, ratio, model=pocket, protect=NOTHING, scorer=RandomWords(0))
    if ratio == 1 or not text.strip() or "<|" in text:
        return
    original = [text[a:b] for a, b in word_ranges(text)]
    kept = kept_words(text, done)
    budget = math.floor(ratio * done.num_original_tokens + 1e-9)
    if len(kept) > 1:
        assert done.num_tokens <= budget
    if len(kept) < len(original):
        # With any one word more, and the space around it, the budget would be met or passed.
        largest = max(len(word.encode("utf-8", "replace")) + 4 for word in original)
        assert done.num_tokens + largest > budget


@settings(deadline=None, max_examples=60)
@given(TEXTS)
def test_ratio_1_changes_nothing(pocket: ElasticModel, text: str) -> None:
    done = compress(text, 1, model=pocket)
    assert done.text == text
    assert done.ratio == 1
    again = compress(done.text, 1.0, model=pocket)
    assert again == replace(done, asked=1.0)


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.sampled_from(["<<", "¤"]), RATIOS)
def test_what_stands_between_markers_stays(
    pocket: ElasticModel, text: str, mark: str, ratio: float
) -> None:
    inside = text.replace(mark, "")
    whole = f"some words {mark}{inside}{mark} and more of them"
    protect = replace(NOTHING, markers=((mark, mark),))
    done = compress(whole, ratio, model=pocket, protect=protect, scorer=RandomWords(1))
    assert f"{mark}{inside}{mark}" in done.text


@settings(deadline=None, max_examples=60)
@given(st.lists(WORDS, min_size=1, max_size=12).map(" ".join), RATIOS)
def test_numbers_names_addresses_and_code_stay(
    pocket: ElasticModel, text: str, ratio: float
) -> None:
    done = compress(f"word {text} word", ratio, model=pocket, scorer=RandomWords(2))
    for word in ("3", "x@y.org", "`a b`"):
        assert done.text.count(word) == text.count(word)


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.text(max_size=5), st.text(st.sampled_from('ab \\"\n学'), max_size=30)),
    RATIOS,
    st.booleans(),
)
def test_json_stays_json(
    pocket: ElasticModel, data: dict[str, str], ratio: float, ascii_only: bool
) -> None:
    text = json.dumps({"answer": [1, None], **data}, ensure_ascii=ascii_only)
    done = compress(text, ratio, model=pocket, scorer=RandomWords(3), protect=STRUCTURE)
    read = json.loads(done.text)
    assert read.keys() == json.loads(text).keys()
    for key, value in data.items():
        assert is_subsequence(read[key], value)


def test_self_information_keeps_what_the_model_did_not_expect(pocket: ElasticModel) -> None:
    text = "the weather the weather the weather quartz the weather"
    scorer = SelfInformation(pocket)
    done = compress(text, 0.6, model=pocket, protect=NOTHING, scorer=scorer)
    assert "quartz" in done.text.split()


@pytest.mark.parametrize(
    ("keeps", "expected"),
    [("head", "On screen:\nBank: You paid"), ("tail", "You walked far today\nRequest:")],
)
def test_the_question_stays_in_any_truncation(
    pocket: ElasticModel, keeps: str, expected: str
) -> None:
    done = compress(SCREEN, 0.4, model=pocket, protect=STRUCTURE, scorer=Truncation(keeps))
    assert expected in done.text
    assert done.text.endswith("\nRequest: who picks me up")


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n", "a", "?", "🙂", "\ud800", "\x00", "Why?", "`x`", "12"]
)
@pytest.mark.parametrize("ratio", [0.01, 0.5, 1.0])
def test_the_smallest_texts_stay(pocket: ElasticModel, text: str, ratio: float) -> None:
    done = compress(text, ratio, model=pocket, scorer=RandomWords(0))
    assert done.text == text
    assert done.ratio == 1


@pytest.mark.parametrize(
    "text",
    [
        "我们今天去学校学习中文很高兴。" * 4,
        "สวัสดีครับ ผมชื่อ สมชาย ครับ " * 4,
        "a\ud800b c\udfff d e f g",
        "שלום עולם טוב מאוד היום",
        "x\ufffd y\ufffd z w",
    ],
)
def test_any_language_and_broken_text(pocket: ElasticModel, text: str) -> None:
    for scorer in (SelfInformation(pocket), RandomWords(0)):
        done = compress(text, 0.5, model=pocket, scorer=scorer)
        assert is_subsequence(done.text, text)
        assert 0 < done.ratio <= 0.5


def test_only_protected_text_stays_and_needs_no_scorer(pocket: ElasticModel) -> None:
    text = "`code here` 12 NASA https://a.b\nWhy is it?"
    done = compress(text, 0.1, model=pocket)
    assert (done.text, done.ratio, done.asked) == (text, 1.0, 0.1)


def test_the_public_function_opens_the_built_in_model(pocket: ElasticModel) -> None:
    assert pliant.compress is compress
    here = compress(SCREEN, 0.5, model=pocket, scorer=RandomWords(0))
    assert pliant.compress(SCREEN, 0.5, scorer=RandomWords(0)) == here
    assert pliant.compress(SCREEN, 0.5, model=pocket.bundle.path, scorer=RandomWords(0)) == here


@pytest.mark.parametrize("ratio", [0, -1, 1.01, math.nan, math.inf, True, "0.5", None])
def test_a_ratio_is_above_0_and_at_most_1(pocket: ElasticModel, ratio: Any) -> None:
    with pytest.raises(RequestError, match="a prompt ratio is above 0 and at most 1"):
        compress("a b", ratio, model=pocket)


def test_what_is_no_text_is_refused(pocket: ElasticModel) -> None:
    for text in (b"a", [1, 2], None):
        with pytest.raises(RequestError, match="compress takes one text"):
            compress(text, 0.5, model=pocket)  # type: ignore[arg-type]


def test_a_bundle_without_a_tlm_needs_a_scorer(tmp_path: Path, pocket: ElasticModel) -> None:
    path = pocket.bundle.gguf.path
    with pytest.raises(BundleError, match="has no tiny language model .* or pass a scorer"):
        compress(SCREEN, 0.5, model=path)


def test_odd_scorers_are_taken_as_they_are(pocket: ElasticModel) -> None:
    class Odd:
        def scores(self, texts: Sequence[str]) -> list[list[TokenScore]]:
            return [[TokenScore(0, 10**9, math.inf), TokenScore(5, 2, 1.0)] for _ in texts]

    done = compress(SCREEN, 0.5, model=pocket, protect=STRUCTURE, scorer=Odd())
    assert done.ratio <= 0.5


@pytest.mark.parametrize("pattern", ["学", "`", '["a": '])
def test_a_very_long_text(pocket: ElasticModel, pattern: str) -> None:
    """In linear time; quadratic would be minutes."""
    text = (pattern * 100_000)[:100_000]
    done = compress(text, 0.5, model=pocket, protect=STRUCTURE, scorer=Truncation("tail"))
    assert done.ratio <= 0.5 or pattern == "`"


def kept_words(text: str, done: Compressed) -> list[str]:
    """The original's words that are kept, none of them in part."""
    kept = {i for start, end in done.kept for i in range(start, end)}
    words = []
    for start, end in word_ranges(text):
        inside = kept & set(range(start, end))
        assert len(inside) in (0, end - start)
        if inside:
            words.append(text[start:end])
    return words


def is_in_order(ranges: Sequence[tuple[int, int]], length: int) -> bool:
    edges = [0, *(edge for each in ranges for edge in each), length]
    return edges == sorted(edges)


def is_subsequence(short: str, long: str) -> bool:
    rest = iter(long)
    return all(character in rest for character in short)
