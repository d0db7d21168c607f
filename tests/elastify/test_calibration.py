from pathlib import Path

import pytest
from torch import cat

from pliant.elastify.calibration import read_calibration, token_windows
from pliant.elastify.source import load_tokenizer
from pliant.errors import ElastifyError
from support.tiny_hf import make_folder


def test_windows_are_spread_over_the_text() -> None:
    rows = cat(token_windows(range(100), windows=3, window_tokens=10)).tolist()
    assert [row[0] for row in rows] == [0, 45, 90]
    assert all(row == list(range(row[0], row[0] + 10)) for row in rows)


def test_windows_do_not_overlap_and_a_short_text_gives_fewer() -> None:
    assert cat(token_windows(range(25), windows=9, window_tokens=10)).shape == (2, 10)
    assert cat(token_windows(range(5), windows=9, window_tokens=10)).shape == (1, 5)


def test_reads_a_text_file(tmp_path: Path, calibration_file: Path) -> None:
    tokenizer = load_tokenizer(make_folder(tmp_path / "model"))
    text = read_calibration(calibration_file, tokenizer, windows=4, window_tokens=16)
    assert text.num_tokens == 64
    assert len(text.sha256) == 64


def test_reads_json_lines_as_documents(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_folder(tmp_path / "model"))
    path = tmp_path / "calibration.jsonl"
    path.write_text('{"text": "Turn on the"}\n\n{"text": "wifi"}\n')
    text = read_calibration(path, tokenizer, windows=1, window_tokens=100)
    expected = tokenizer("Turn on the")["input_ids"] + tokenizer("wifi")["input_ids"]
    assert text.batches[0].tolist() == [expected]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("calibration.txt", b""),
        ("calibration.txt", b"\xff\xfe\x00"),
        ("calibration.txt", None),
        ("calibration.jsonl", b"\n"),
        ("calibration.jsonl", b"plain text\n"),
        ("calibration.jsonl", b'{"prompt": "x"}\n'),
    ],
)
def test_refuses_what_is_no_text(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    tokenizer = load_tokenizer(make_folder(tmp_path / "model"))
    with pytest.raises(ElastifyError, match="calibration file"):
        read_calibration(path, tokenizer, windows=4, window_tokens=16)


@pytest.mark.parametrize(("windows", "window_tokens"), [(0, 16), (4, 1)])
def test_refuses_empty_windows(windows: int, window_tokens: int, calibration_file: Path) -> None:
    with pytest.raises(ElastifyError, match="at least 1 of 2"):
        read_calibration(calibration_file, None, windows, window_tokens)
