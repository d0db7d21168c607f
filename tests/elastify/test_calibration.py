from pathlib import Path

import pytest
import torch
from torch import Tensor

from pliant.elastify.calibration import PROMPT_WEIGHT, mean_loss, read_calibration, token_windows
from pliant.elastify.examples import Example
from pliant.elastify.source import load_tokenizer
from pliant.elastify.windows import Windows, joined
from pliant.errors import ElastifyError
from support.tiny_hf import make_folder, make_model


def rows_of(batches: tuple[Windows, ...]) -> Tensor:
    return joined(batches).tokens


def test_windows_are_spread_over_the_text() -> None:
    rows = rows_of(token_windows(Example.text(range(100)), windows=3, window_tokens=10)).tolist()
    assert [row[0] for row in rows] == [0, 45, 90]
    assert all(row == list(range(row[0], row[0] + 10)) for row in rows)


def test_windows_do_not_overlap_and_a_short_text_gives_fewer() -> None:
    assert rows_of(token_windows(Example.text(range(25)), 9, 10)).shape == (2, 10)
    assert rows_of(token_windows(Example.text(range(5)), 9, 10)).shape == (1, 5)


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
    assert text.batches[0].tokens.tolist() == [expected]


def test_a_prompt_counts_less_than_its_answer(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = None
    path = tmp_path / "calibration.jsonl"
    path.write_text('{"prompt": "Turn on the", "answer": " wifi"}\n' * 2)
    [windows] = read_calibration(path, tokenizer, windows=1, window_tokens=100).batches
    prompt = tokenizer("Turn on the")["input_ids"]
    answer = tokenizer(" wifi" + (tokenizer.eos_token or ""))["input_ids"]
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    start = bos if tokenizer("", add_special_tokens=True)["input_ids"] == bos else []
    assert windows.tokens.tolist() == [(start + prompt + answer) * 2]
    row = [PROMPT_WEIGHT] * len(start + prompt) + [1.0] * len(answer)
    assert windows.weights[0].tolist() == pytest.approx([*row[1:], 0.0, *row[1:]])


def test_the_loss_is_the_weighted_mean() -> None:
    model = make_model()
    batch = Windows(torch.tensor([[6, 7, 8], [9, 10, 11]]), torch.tensor([[1.0, 0.0], [0.5, 2.0]]))
    logs = torch.log_softmax(model(input_ids=batch.tokens).logits, dim=-1)
    expected = -(logs[0, 0, 7] + 0.5 * logs[1, 0, 10] + 2 * logs[1, 1, 11]) / 3.5
    assert mean_loss(model, batch.split(1)) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("calibration.txt", b""),
        ("calibration.txt", b"\xff\xfe\x00"),
        ("calibration.txt", None),
        ("calibration.jsonl", b"\n"),
        ("calibration.jsonl", b"plain text\n"),
        ("calibration.jsonl", b'{"prompt": "x"}\n'),
        ("calibration.jsonl", b'{"messages": []}\n'),
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
