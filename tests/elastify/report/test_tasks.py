"""Questions from files, and their scores against transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pliant.bundle import open_bundle
from pliant.elastify.export import write_gguf
from pliant.elastify.report.tasks import MAX_QUESTIONS, TaskScore, read_tasks, score_tasks
from pliant.elastify.source import load_model, load_tokenizer
from pliant.elastify.vocabulary import read_vocabulary
from pliant.engine.model import ElasticModel
from pliant.errors import LabelError
from support.tiny_hf import make_folder

CHOICES = ["on", "off again", "wifi"]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_reads_questions_and_conversations(tmp_path: Path) -> None:
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Off?"}]
    plain, with_context, chat = read_tasks(
        write(
            tmp_path / "t.jsonl",
            {"question": "On?", "choices": CHOICES, "answer_index": 2},
            {"task": "b", "context": "It is on.", "question": "Off?", "choices": CHOICES,
             "answer_index": 0, "source": "test"},
            {"app": "setting", "messages": said, "choices": CHOICES, "answer_index": 1},
        )
    )  # fmt: skip
    assert plain.task == "questions"
    assert plain.messages == ({"role": "user", "content": "On?"},)
    assert plain.choices == tuple(CHOICES)
    assert with_context.messages[0]["content"] == "It is on.\nOff?"
    assert chat.task == "setting"
    assert list(chat.messages) == said
    assert chat.answer_index == 1


def test_takes_some_from_all_over_a_long_file(tmp_path: Path) -> None:
    rows = [{"question": str(i), "choices": CHOICES, "answer_index": 0} for i in range(1000)]
    questions = read_tasks(write(tmp_path / "t.jsonl", *rows))
    assert len(questions) == MAX_QUESTIONS
    assert questions[0].messages[0]["content"] == "0"
    assert questions[-1].messages[0]["content"] == "999"


GOOD: dict[str, Any] = {"question": "On?", "choices": CHOICES, "answer_index": 0}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([], "not an object"),
        ({**GOOD, "choices": ["one"]}, ".*at least two texts"),
        ({**GOOD, "choices": ["one", ""]}, ".*at least two texts"),
        ({**GOOD, "choices": "ab"}, ".*at least two texts"),
        ({**GOOD, "answer_index": 3}, "`answer_index` must be 0 to 2"),
        ({**GOOD, "answer_index": True}, "`answer_index` must be 0 to 2"),
        ({**GOOD, "question": 3}, "needs `messages`, or a `question`"),
        ({**GOOD, "question": None, "context": "c"}, "needs `messages`, or a `question`"),
        ({"choices": CHOICES, "answer_index": 0}, "needs `messages`, or a `question`"),
        ({**GOOD, "messages": []}, "`messages` must be objects"),
        ({**GOOD, "messages": [{"role": "user", "content": None}]}, "`messages` must be objects"),
        ({**GOOD, "task": 5}, "`task` must be a text"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(LabelError, match=rf"t\.jsonl, line 2: {message}"):
        read_tasks(write(tmp_path / "t.jsonl", GOOD, row))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff", "cannot be read"), (b"\n", "has no questions"), (b"{", "line 1: not valid JSON")],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(LabelError, match=message):
        read_tasks(path)
    with pytest.raises(LabelError, match="cannot be read"):
        read_tasks(tmp_path / "nowhere")


@pytest.mark.parametrize("has_template", [True, False])
def test_scores_are_those_of_transformers(tmp_path: Path, has_template: bool) -> None:
    source = make_folder(tmp_path / "hf")
    config = source / "tokenizer_config.json"
    if not has_template:
        told = json.loads(config.read_text())
        del told["chat_template"]
        config.write_text(json.dumps(told))
    model, tokenizer = load_model(source), load_tokenizer(source)
    write_gguf(model, read_vocabulary(source, 320), tmp_path / "m.gguf", "F16", "m")
    asked = ["Turn on the wifi", "What time is it?", "Call Anna", "Set an alarm", "Good night"]
    picked = [_pick(model, tokenizer, text, has_template) for text in asked]
    rows = [
        {"task": "t", "question": text, "choices": CHOICES, "answer_index": (best + (i == 0)) % 3}
        for i, (text, best) in enumerate(zip(asked, picked, strict=True))
    ]
    long = {"task": "long", "question": "wifi " * 400, "choices": CHOICES, "answer_index": 0}
    questions = read_tasks(write(tmp_path / "t.jsonl", *rows, long))
    with ElasticModel(open_bundle(tmp_path / "m.gguf")) as elastic:
        found = score_tasks(elastic, questions, 1.0)
    assert found == {"t": TaskScore(5, 4, 0), "long": TaskScore(0, 0, 1)}


@torch.no_grad()
def _pick(model: Any, tokenizer: Any, question: str, has_template: bool) -> int:
    """The whole text of every choice on its own, without a cache."""
    if has_template:
        said = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
        choices = CHOICES
    else:
        prompt, choices = f"{question}\nAnswer:", [f" {choice}" for choice in CHOICES]
    start = tokenizer(prompt, add_special_tokens=not has_template)["input_ids"]
    values = []
    for choice in choices:
        tokens = tokenizer(choice, add_special_tokens=False)["input_ids"]
        logs = model(input_ids=torch.tensor([start + tokens])).logits[0].log_softmax(-1)
        rows = range(len(start) - 1, len(start) + len(tokens) - 1)
        values.append(float(logs[list(rows), tokens].mean()))
    return max(range(len(values)), key=values.__getitem__)
