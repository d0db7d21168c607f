import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pliant.elastify.examples import Example
from pliant.elastify.recovery.data import HELD_OUT_EVERY, RecoveryData, read_recovery_data
from pliant.elastify.source import load_tokenizer
from pliant.errors import ElastifyError
from support.tiny_hf import make_folder

HI = [{"role": "user", "content": "What does Anna say?"}, {"role": "assistant", "content": "Hi!"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(make_folder(tmp_path_factory.mktemp("model")))


def read(tmp_path: Path, tokenizer: Any, rows: list[Any], **limits: Any) -> RecoveryData:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_recovery_data(path, tokenizer, **{"max_tokens": 64, "prompt_weight": 0.1, **limits})


def first(tmp_path: Path, tokenizer: Any, row: Any, **limits: Any) -> Example:
    return read(tmp_path, tokenizer, [row, row], **limits).held_out[0]


def text_of(tokenizer: Any, example: Example, weight: float) -> str:
    """What is predicted with this weight."""
    return str(tokenizer.decode(example.tokens[np.isclose(example.weights, weight)]))


def test_only_the_assistant_counts_fully(tmp_path: Path, tokenizer: Any) -> None:
    more = [*HI, {"role": "user", "content": "When?"}, {"role": "assistant", "content": "At 10:30"}]
    example = first(tmp_path, tokenizer, {"messages": more})
    whole = tokenizer.apply_chat_template(more, tokenize=False)
    assert tokenizer.decode(example.tokens) == whole
    assert text_of(tokenizer, example, 1.0) == "Hi!<|end|>\nAt 10:30<|end|>\n"
    assert example.weights[0] == 0.0
    assert example.tokens.dtype == np.int64


def test_prompt_and_answer_are_a_conversation_of_two(tmp_path: Path, tokenizer: Any) -> None:
    row = {"prompt": HI[0]["content"], "answer": HI[1]["content"]}
    example = first(tmp_path, tokenizer, row)
    expected = first(tmp_path, tokenizer, {"messages": HI})
    assert np.array_equal(example.tokens, expected.tokens)
    assert np.array_equal(example.weights, expected.weights)


def test_without_a_template_an_answer_ends_the_text(tmp_path: Path, tokenizer: Any) -> None:
    plain = type(tokenizer)(tokenizer_object=tokenizer._tokenizer, eos_token=tokenizer.eos_token)
    example = first(tmp_path, plain, {"prompt": "Anna says: ", "answer": "Hi!"})
    assert text_of(plain, example, 1.0) == f"Hi!{tokenizer.eos_token}"
    with pytest.raises(ElastifyError, match="line 1: the model has no chat template"):
        read(tmp_path, plain, [{"messages": HI}])


def test_all_of_a_text_counts(tmp_path: Path, tokenizer: Any) -> None:
    example = first(tmp_path, tokenizer, {"text": "Turn on the wifi"})
    assert (example.weights[1:] == 1.0).all()
    path = tmp_path / "plain.txt"
    path.write_text("Turn on the wifi\n\nTurn it off\n")
    data = read_recovery_data(path, tokenizer, 64, 0.1)
    assert len(data.training) + len(data.held_out) == 2


def test_a_masked_prompt_and_a_long_one(tmp_path: Path, tokenizer: Any) -> None:
    masked = first(tmp_path, tokenizer, {"messages": HI}, prompt_weight=0.0)
    assert set(masked.weights) == {0.0, 1.0}
    cut = first(tmp_path, tokenizer, {"messages": HI}, max_tokens=8)
    assert np.array_equal(cut.tokens, masked.tokens[-8:])
    assert cut.weights[0] == 0.0


def test_some_examples_are_held_out(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"text": f"number {index}"} for index in range(2 * HELD_OUT_EVERY)]
    data = read(tmp_path, tokenizer, rows)
    texts = [[tokenizer.decode(e.tokens) for e in part] for part in (data.training, data.held_out)]
    assert len(texts[1]) == 2
    assert sorted(texts[0] + texts[1]) == sorted(row["text"] for row in rows)


def test_earlier_answers_that_a_template_rewrites_count_as_prompt(
    tmp_path: Path, tokenizer: Any
) -> None:
    template = (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}"
        "{{ m['content'] if loop.last or m['role'] == 'user' else 'short' }}{{ '<|end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    )
    rewriting = type(tokenizer)(tokenizer_object=tokenizer._tokenizer, chat_template=template)
    more = [*HI, {"role": "user", "content": "When?"}, {"role": "assistant", "content": "At 10:30"}]
    example = first(tmp_path, rewriting, {"messages": more})
    assert text_of(rewriting, example, 1.0) == "At 10:30<|end|>\n"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ([], "a row is an object"),
        ({"question": "?"}, "a row has `messages`"),
        ({"text": 7}, "`text` is not text"),
        ({"messages": "hello"}, "`messages` is a list"),
        ({"messages": [{"role": "user"}]}, "`content` is not text"),
        ({"messages": HI[:1]}, "no answer of the assistant"),
        ({"messages": [{"role": "robot", "content": ""}, HI[1]]}, "unknown role robot"),
        ({"prompt": "a"}, "a row has"),
    ],
)
def test_the_line_that_is_not_understood(
    tmp_path: Path, tokenizer: Any, row: Any, why: str
) -> None:
    with pytest.raises(ElastifyError, match=f"line 2: .*{why}"):
        read(tmp_path, tokenizer, [{"text": "fine, this one"}, row])


def test_files_that_cannot_be_read(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "bad.jsonl"
    for content in (b'{"text": "a"}\n{', b"\xff\xfe", b""):
        path.write_bytes(content)
        with pytest.raises(ElastifyError, match=r"recovery data .*bad\.jsonl"):
            read_recovery_data(path, tokenizer, 64, 0.1)
    with pytest.raises(ElastifyError, match=r"nowhere\.jsonl cannot be read"):
        read_recovery_data(tmp_path / "nowhere.jsonl", tokenizer, 64, 0.1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["messages", "role", "content", "prompt", "answer", "text"]), inner
        )
    ),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(JSON, max_size=3))
def test_any_json_is_read_or_refused_in_one_sentence(
    tmp_path: Path, tokenizer: Any, rows: list[Any]
) -> None:
    try:
        data = read(tmp_path, tokenizer, rows)
    except ElastifyError as error:
        assert "data.jsonl" in str(error)
        return
    for example in (*data.training, *data.held_out):
        assert len(example.tokens) == len(example.weights) <= 64
        assert example.weights[0] == 0
        assert ((example.weights >= 0) & (example.weights <= 1)).all()
