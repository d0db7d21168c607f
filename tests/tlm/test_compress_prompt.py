"""Compression of chats: messages stay messages, and the ratio is the whole prompt's."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.engine.model import ElasticModel
from pliant.errors import RequestError
from pliant.tlm.compress import compress, compress_prompt, prompt_text
from pliant.tlm.protect import STRUCTURE, Protect
from pliant.tlm.scores import TokenScore
from pliant.tlm.words import word_ranges

NOTHING = Protect(*[False] * 7)
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Choose the app for the request and nothing else."},
    {"role": "user", "content": "Apps:\nmaps one\nmusic two\nmail three\nRequest: play a song"},
    {"role": "assistant", "content": "the music app named two is my answer"},
    {"role": "user", "content": "Are you sure it is that one?"},
]


class Length:
    """Longer words are worth more; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def scores(self, texts: list[str]) -> list[list[TokenScore]]:
        self.asked += texts
        return [[TokenScore(a, b, b - a) for a, b in word_ranges(text)] for text in texts]


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8, 0.95])
def test_messages_stay_messages(pocket: ElasticModel, ratio: float) -> None:
    scorer = Length()
    done = compress_prompt(CHAT, ratio, model=pocket, protect=STRUCTURE, scorer=scorer)
    assert scorer.asked == [prompt_text(CHAT)]
    assert isinstance(done.prompt, tuple)
    assert [message["role"] for message in done.prompt] == [m["role"] for m in CHAT]
    assert done.prompt[0] == CHAT[0]
    assert done.prompt[3] == CHAT[3]
    assert done.num_original_tokens == pocket.count_tokens(CHAT)
    assert done.num_tokens == pocket.count_tokens(done.prompt)
    assert done.ratio == done.num_tokens / done.num_original_tokens
    floor = compress_prompt(CHAT, 0.01, model=pocket, protect=STRUCTURE, scorer=scorer)
    assert done.num_tokens <= max(ratio * done.num_original_tokens, floor.num_tokens)


def test_kept_are_ranges_of_the_prompts_text(pocket: ElasticModel) -> None:
    done = compress_prompt(CHAT, 0.7, model=pocket, protect=STRUCTURE, scorer=Length())
    text = prompt_text(CHAT)
    kept = "".join(text[start:end] for start, end in done.kept)
    assert kept == "".join(message["content"] for message in done.prompt)  # type: ignore[index]
    assert text == "\n".join(message["content"] for message in CHAT)


def test_the_system_message_may_be_let_go(pocket: ElasticModel) -> None:
    protect = Protect(system=False, names=False, numbers=False)
    done = compress_prompt(CHAT, 0.5, model=pocket, protect=protect, scorer=Length())
    assert done.prompt[0]["content"] != CHAT[0]["content"]  # type: ignore[index]
    assert done.prompt[3] == CHAT[3]


def test_the_last_question_is_the_last_users(pocket: ElasticModel) -> None:
    chat = [*CHAT[:3], {"role": "assistant", "content": "shall I play some song right now?"}]
    done = compress_prompt(chat, 0.1, model=pocket, protect=STRUCTURE, scorer=Length())
    assert isinstance(done.prompt, tuple)
    assert [message["content"] for message in done.prompt[1:]] == [
        "Apps:\nRequest: play a song", "", ""
    ]  # fmt: skip


def test_parts_other_than_text_stay_and_the_given_messages_are_not_changed(
    pocket: ElasticModel,
) -> None:
    image = {"type": "image", "data": "abc"}
    parts = [{"type": "text", "text": "long words of a few sorts"}, image, "and more short words"]
    chat = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]},
        {"role": "user", "content": "go on"},
    ]
    assert prompt_text(chat) == "long words of a few sorts\nand more short words\ngo on"

    class Template(ElasticModel):
        """Counts words: the built-in model's template takes texts only."""

        def __init__(self) -> None:
            self.tokenizer = pocket.tokenizer
            self.bundle = pocket.bundle

        def encode_prompt(self, prompt: Any) -> list[int]:
            return [0] * len(prompt_text(prompt).split())

    done = compress_prompt(chat, 0.5, model=Template(), protect=STRUCTURE, scorer=Length())
    assert isinstance(done.prompt, tuple)
    first = done.prompt[0]["content"]
    assert (first[0]["type"], first[1]) == ("text", image)
    assert done.prompt[1] == chat[1]
    assert done.prompt[2] == chat[2]
    assert done.num_tokens == len(prompt_text(done.prompt).split()) <= 6
    assert parts[0] == {"type": "text", "text": "long words of a few sorts"}


def test_a_bare_prompt_is_compressed_as_a_text(pocket: ElasticModel) -> None:
    text = "one two three four five\nsix seven"
    done = compress_prompt(text, 0.6, model=pocket, scorer=Length())
    bare = compress(text, 0.6, model=pocket, scorer=Length())
    assert (done.prompt, done.kept, done.ratio) == (bare.text, bare.kept, bare.ratio)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "role": st.sampled_from(["system", "user", "assistant"]),
                "content": st.text(st.sampled_from("ab 1.\n?<|end|>学\ud800")),
            }
        ),
        min_size=1,
        max_size=4,
    ),
    st.floats(0.01, 1),
)
def test_what_holds_for_any_chat(
    pocket: ElasticModel, chat: list[dict[str, str]], ratio: float
) -> None:
    done = compress_prompt(chat, ratio, model=pocket, scorer=Length())
    assert isinstance(done.prompt, tuple)
    assert len(done.prompt) == len(chat)
    assert done.num_tokens <= done.num_original_tokens
    for short, message in zip(done.prompt, chat, strict=True):
        rest = iter(message["content"])
        assert all(character in rest for character in short["content"])
        assert message["role"] != "system" or short == message
    if ratio == 1:
        assert list(done.prompt) == chat


@pytest.mark.parametrize("prompt", [[1, 2, 3], ["text"], [{"role": "user"}, 7]])
def test_token_ids_cannot_be_compressed(pocket: ElasticModel, prompt: Any) -> None:
    with pytest.raises(RequestError, match="one text or a list of messages, no token ids"):
        compress_prompt(prompt, 0.5, model=pocket, scorer=Length())
    with pytest.raises(RequestError, match="no token ids"):
        prompt_text(prompt)


def test_no_messages_are_refused_as_for_an_answer(pocket: ElasticModel) -> None:
    with pytest.raises(RequestError, match="the prompt is empty"):
        compress_prompt([], 0.5, model=pocket, scorer=Length())
