"""Pairs in the layout of MeetingBank-LLMCompressed become labels of words."""

import json
from pathlib import Path
from typing import Any

import pytest

from pliant.errors import LabelError
from pliant.tlm.labels.pairs import label_pairs
from pliant.tlm.labels.rows import ScoreRow


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pair(text: str, short: str) -> dict[str, Any]:
    return {"idx": 0, "prompt": text, "compressed_prompt": short}


def test_pieces_and_whole_texts(tmp_path: Path) -> None:
    pieces = {
        "idx": 1,
        "prompt": "unused",
        "compressed_prompt": "unused",
        "prompt_list": ["Good morning all", " "],
        "compressed_prompt_list": ["morning", ""],
    }
    found = label_pairs(write(tmp_path / "p.jsonl", pieces, pair("a b", "a b")))
    assert found.rows == (
        ScoreRow("Good morning all", ((0, 4, 0.0), (5, 12, 1.0), (13, 16, 0.0))),
        ScoreRow("a b", ((0, 1, 1.0), (2, 3, 1.0))),
    )
    assert (found.unusable, found.varied, found.unaligned) == (0, 0, 0)


def test_poor_pairs_are_left_out(tmp_path: Path) -> None:
    good = [pair(f"one two three {index}", f"two {index}") for index in range(38)]
    uneven = {"prompt_list": ["a", "b"], "compressed_prompt_list": ["a"]}
    varied = pair("one two three", "something else")
    unaligned = pair("one two three", "one one one")
    rows = [*good, uneven, varied, unaligned]
    found = label_pairs(write(tmp_path / "p.jsonl", *rows))
    assert len(found.rows) == 38
    assert (found.unusable, found.varied, found.unaligned) == (1, 1, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([pair("a", "a"), {"prompt": "a"}], "line 2: compressed_prompt is missing"),
        ([{"prompt": 3, "compressed_prompt": "a"}], "line 1: prompt is 3, not a text"),
        ([{"prompt_list": "ab", "compressed_prompt_list": "ab"}], "line 1: .* lists of texts"),
        ([[]], "line 1: not a JSON object"),
        ([], "has no pairs"),
    ],
)
def test_wrong_files_are_told(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        label_pairs(write(tmp_path / "p.jsonl", *rows))
    with pytest.raises(LabelError, match="cannot be read"):
        label_pairs(tmp_path / "nowhere.jsonl")
