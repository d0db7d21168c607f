"""Streams of bytes to text: the same text however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.engine.stopping import MAX_STOP_STRINGS, TextStream, check_stop_strings
from pliant.errors import RequestError

letters = st.text(st.sampled_from("abä👍"), max_size=12)
stops = st.lists(st.text(st.sampled_from("abä"), min_size=1, max_size=4), max_size=3)


def cut_at_first_stop(text: str, stop: list[str]) -> str:
    """The plain definition: read on, and end before the stop string that is complete first."""
    for end in range(len(text) + 1):
        found = [string for string in stop if text[:end].endswith(string)]
        if found:
            return text[: end - max(map(len, found))]
    return text


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


@given(letters, stops, st.lists(st.integers(0, 60)))
def test_the_cut_text_comes_out_however_it_is_fed(
    text: str, stop: list[str], cuts: list[int]
) -> None:
    stream = TextStream(stop)
    parts = [stream.feed(part) for part in chunks(text.encode(), cuts)]
    assert "".join(parts) + stream.finish() == cut_at_first_stop(text, stop)
    assert stream.stopped == any(string in text for string in stop)


@given(st.binary(max_size=24), st.lists(st.integers(0, 60)))
def test_bytes_that_are_no_utf8_become_replacement_characters(data: bytes, cuts: list[int]) -> None:
    stream = TextStream()
    parts = [stream.feed(part) for part in chunks(data, cuts)]
    assert "".join(parts) + stream.finish() == data.decode("utf-8", "replace")


def test_half_a_code_point_waits_for_the_rest() -> None:
    stream = TextStream()
    first, second = "👍".encode()[:3], "👍".encode()[3:]
    assert stream.feed(first) == ""
    assert stream.feed(second) == "👍"
    assert stream.feed(first) == ""
    assert stream.finish() == "\ufffd"


def test_text_is_held_back_only_while_it_may_become_a_stop_string() -> None:
    stream = TextStream(["END"])
    assert stream.feed(b"xE") == "x"
    assert stream.feed(b"N") == ""
    assert stream.feed(b"o") == "ENo"
    assert stream.feed(b"EN") == ""
    assert stream.finish() == "EN"


def test_nothing_comes_after_a_stop_string() -> None:
    stream = TextStream(["stop"])
    assert stream.feed(b"a stop b") == "a "
    assert stream.stopped
    assert stream.feed(b"more") == ""
    assert stream.finish() == ""


@pytest.mark.parametrize("stop", ["a", [""], [3], ["x" * 1000], ["x"] * (MAX_STOP_STRINGS + 1)])
def test_refuses_bad_stop_strings(stop: list[str]) -> None:
    with pytest.raises(RequestError, match="stop"):
        check_stop_strings(stop)
