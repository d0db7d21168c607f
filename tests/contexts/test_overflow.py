"""Chats that reach the model's length, with the built-in model and its tiny language model."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import pliant
from pliant.contexts import ContextOptions, Contexts, StorageProfile
from pliant.contexts.context import Context
from pliant.contexts.journal import Journal
from pliant.contexts.store import Store
from pliant.contexts.verify import verify
from pliant.engine.model import ElasticModel
from pliant.engine.options import EngineOptions
from pliant.errors import ContextOverflowError, RequestError
from pliant.tlm.protect import Protect
from support.tiny_bundle import make_tiny_bundle

SYSTEM = "Answer from the notifications."
FAST = StorageProfile(1e10, 0.0)
OPTIONS = ContextOptions(bits=16, overflow="compress", storage=FAST)


@pytest.fixture(scope="module")
def pocket() -> Iterator[ElasticModel]:
    with pliant.load("pocket", EngineOptions(threads=1)) as model:
        yield model


def turn(number: int, sentences: int = 2) -> str:
    lines = [
        f"Message {number} from the station: all trains on line {index} are late because of the "
        "heavy snow, and passengers are kindly asked to take the bus instead"
        for index in range(sentences)
    ]
    return ". ".join(lines) + f".\nRequest: Which message is number {number}?"


def say(context: Context, text: str) -> tuple[int, ...]:
    return context.call([{"role": "user", "content": text}], max_tokens=4).tokens


def likeliest(context: Context, text: str) -> dict[int, float]:
    """Log-probabilities of the answer's likeliest first tokens."""
    answer = context.call([{"role": "user", "content": text}], max_tokens=1, logprobs=4)
    assert answer.logprobs is not None
    return {each.token: each.logprob for each in answer.logprobs[0].top}


def said(contexts: Contexts, context: Context) -> list[dict[str, str]]:
    pieces = contexts._shared.journal.pieces(context.id)
    return [message for piece in pieces for message in json.loads(piece.messages)]


def fill(model: ElasticModel, contexts: Contexts, context: Context) -> str:
    """Call until the next turn would not fit; that turn."""
    for number in range(100):
        text = turn(number)
        messages = [*said(contexts, context), {"role": "user", "content": text}]
        if model.count_tokens(messages) >= model.engine.context_length:
            return text
        say(context, text)
    raise AssertionError("the context never filled")


def is_subsequence(short: str, long: str) -> bool:
    words = iter(long.split())
    return all(word in words for word in short.split())


def test_the_oldest_turns_get_shorter_and_the_answer_comes(
    pocket: ElasticModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Contexts(pocket, tmp_path / "contexts", OPTIONS) as contexts:
        context = contexts.create("app", SYSTEM)
        text = fill(pocket, contexts, context)
        before = said(contexts, context)
        assert caplog.text == ""
        answer = say(context, text)
        [record] = caplog.records
        assert record.levelno == logging.WARNING and "oldest turns were shortened" in caplog.text
        after = said(contexts, context)
    assert [m["role"] for m in after] == [m["role"] for m in before] + ["user", "assistant"]
    assert after[0] == before[0] == {"role": "system", "content": SYSTEM}
    assert after[-2]["content"] == text
    pairs = list(zip(before[1:], after[1:-2], strict=True))
    is_changed = [old != new for old, new in pairs]
    # From the oldest on; answers may be too short to lose a word.
    users = [old != new for old, new in pairs if old["role"] == "user"]
    assert 2 <= sum(users) < len(users) - 1
    assert users == sorted(users, reverse=True)
    assert not any(is_changed[2 * sum(users) :])
    for old, new in pairs:
        assert is_subsequence(new["content"], old["content"])
    expected = pocket.generate(after[:-1], max_tokens=4).tokens
    assert answer == expected
    share = pocket.count_tokens(after[:-1]) / pocket.engine.context_length
    assert 0.6 < share <= 0.75


def test_which_words_go_is_what_compression_says(pocket: ElasticModel, tmp_path: Path) -> None:
    with Contexts(pocket, tmp_path / "contexts", OPTIONS) as contexts:
        context = contexts.create("app", SYSTEM)
        say(context, fill(pocket, contexts, context))
        oldest = said(contexts, context)[1]["content"]
    # Its own TLM, opened anew, on the same text.
    expected = pliant.compress(turn(0), 0.5, model="pocket", protect=Protect(question=False))
    assert oldest == expected.text and len(oldest) < len(turn(0))


def test_what_was_shortened_stays_so_after_a_restart(pocket: ElasticModel, tmp_path: Path) -> None:
    root, question = tmp_path / "contexts", "Request: Which message is number 3?"
    with Contexts(pocket, root, OPTIONS) as contexts:
        context = contexts.create("app", SYSTEM)
        say(context, fill(pocket, contexts, context))
        tokens = contexts._shared.journal.history(context.id).tokens
        kept = said(contexts, context)
        contexts.flush()
        fork = context.fork()
        expected = likeliest(context, question)
    with Journal(root) as journal, Store(root) as store:
        assert verify(journal, store).is_clean
        assert journal.history(fork.id).tokens == tokens
    with Contexts(pocket, root, OPTIONS) as contexts:
        again = contexts.open("app", fork.id)
        assert said(contexts, again) == kept
        assert likeliest(again, question) == expected
        assert contexts.stat().restored_tokens["from_disk"] == len(tokens) - 1
        # And so on: full again, shortened again.
        say(again, fill(pocket, contexts, again))
        assert said(contexts, again)[0]["content"] == SYSTEM
        assert again.stat().num_tokens < pocket.engine.context_length


def test_what_does_not_fit_even_so_is_refused(pocket: ElasticModel, tmp_path: Path) -> None:
    with Contexts(pocket, tmp_path / "contexts", OPTIONS) as contexts:
        context = contexts.create("app", SYSTEM)
        say(context, turn(0))
        before = contexts._shared.journal.history(context.id)
        with pytest.raises(ContextOverflowError, match="all its old turns shortened"):
            say(context, turn(1, sentences=40))
        assert contexts._shared.journal.history(context.id) == before


def test_by_default_a_full_context_is_an_error_that_says_what_to_do(
    pocket: ElasticModel, tmp_path: Path
) -> None:
    options = ContextOptions(bits=16, storage=FAST)
    with Contexts(pocket, tmp_path / "contexts", options) as contexts:
        context = contexts.create("app", SYSTEM)
        text = fill(pocket, contexts, context)
        before = contexts._shared.journal.history(context.id)
        with pytest.raises(ContextOverflowError, match="--when-full compress"):
            say(context, text)
        assert contexts._shared.journal.history(context.id) == before
        bare = contexts.create("app")
        limit = pocket.engine.context_length
        bare.call([7] * (limit - 20), max_tokens=4)
        with pytest.raises(ContextOverflowError, match="begin a new one$"):
            bare.call([7] * 40)


def test_a_bundle_without_a_tlm_is_refused(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    with (
        ElasticModel(bundle, EngineOptions(threads=1)) as model,
        pytest.raises(RequestError, match="tiny has none: make one with `pliant tlm train`"),
    ):
        Contexts(model, tmp_path / "contexts", OPTIONS)
    assert not (tmp_path / "contexts").exists()
