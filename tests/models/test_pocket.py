"""The generator of the built-in model: repeatable, answerable, nothing held out leaks."""

import random
import re
from collections.abc import Iterator

import pytest

from pocket import sources
from pocket.apps import CATEGORIES
from pocket.chat import CHAT_TEMPLATE, render
from pocket.functions import FUNCTIONS
from pocket.generate import (
    TOP_LEVEL,
    evaluation_scenes,
    make_scene,
    training_conversations,
)
from pocket.real_tasks import EVALUATION_SETS
from pocket.scene import APPS, Scene
from pocket.words import CITIES, FIRST_NAMES, ITEMS, split

NUM_SCENES = 60
FORBIDDEN_SETS = {"octopus", "llamatouch", "commonsenseqa", "sciq"}


def training_scenes(app: str) -> Iterator[Scene]:
    rng = random.Random(3)
    for i in range(NUM_SCENES):
        yield make_scene(app, rng, i % (TOP_LEVEL + 1), rng.randint(1, 6), held_out=False)


@pytest.mark.parametrize("app", APPS)
def test_the_same_seed_gives_the_same_rows(app: str) -> None:
    assert list(training_scenes(app)) == list(training_scenes(app))
    assert evaluation_scenes(app, 5, seed=1) == evaluation_scenes(app, 5, seed=1)
    assert evaluation_scenes(app, 5, seed=1) != evaluation_scenes(app, 5, seed=2)


@pytest.mark.parametrize("app", APPS)
def test_every_answer_is_one_of_different_choices(app: str) -> None:
    for scene in [*training_scenes(app), *evaluation_scenes(app, NUM_SCENES)]:
        for turn in scene.turns:
            assert turn.choices[turn.answer_index] == turn.answer
            assert len(set(turn.choices)) == len(turn.choices)


@pytest.mark.parametrize("app", APPS)
def test_every_answer_can_be_read_from_the_prompt(app: str) -> None:
    for scene in [*training_scenes(app), *evaluation_scenes(app, NUM_SCENES)]:
        for turn in scene.turns:
            label, _, value = turn.answer.partition("=")
            assert label in scene.context
            assert value.lower() in turn.question.lower()


@pytest.mark.parametrize("app", APPS)
def test_rows_carry_the_prompt_as_messages(app: str) -> None:
    row = evaluation_scenes(app, 1)[0].row("test")
    system, user = row["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    assert row["context"] in user["content"]
    assert user["content"].endswith(f"Request: {row['question']}")
    assert row["choices"][row["answer_index"]] == row["answer"]
    assert row["app"] == app


@pytest.mark.parametrize("app", APPS)
def test_nothing_held_out_leaks_into_training(app: str) -> None:
    held_out = [*split(FIRST_NAMES, True), *split(CITIES, True), *split(ITEMS, True)]
    held_out += [name for c in CATEGORIES for name in c.held_out_apps]
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, held_out)) + r")\b")
    answers = {name for f in FUNCTIONS if f.is_held_out for name in f.names}
    for scene in training_scenes(app):
        for turn in scene.turns:
            assert not pattern.search(f"{scene.context}\n{turn.question}")
            assert turn.answer.lower().replace("_", " ") not in answers


def test_held_out_requests_are_no_training_requests() -> None:
    for entry in (*FUNCTIONS, *CATEGORIES):
        held_out = entry.held_out_request
        is_whole = getattr(entry, "is_held_out", False)
        assert is_whole or held_out not in entry.requests


def test_only_permitted_sets_are_trained_on() -> None:
    assert not FORBIDDEN_SETS & set(sources.TRAINING_SETS)
    assert not any(name.startswith("elastilm_trace") for name in sources.TRAINING_SETS)
    assert not set(sources.TRAINING_SETS) & set(EVALUATION_SETS)
    assert sources.VALID_SHARD != sources.DIALOGUE_SHARD


def test_intent_rows_are_split_by_question_alone() -> None:
    assert sources.is_for_evaluation("Turn it  up") == sources.is_for_evaluation("turn it up")
    share = sum(sources.is_for_evaluation(f"question {i}") for i in range(2000)) / 2000
    assert 0.05 < share < 0.11


def test_the_template_renders_as_the_python_form() -> None:
    jinja2 = pytest.importorskip("jinja2")
    messages = evaluation_scenes("app", 1)[0].conversation()
    template = jinja2.Environment().from_string(CHAT_TEMPLATE)
    rendered = template.render(messages=messages, add_generation_prompt=True)
    assert rendered == render(messages, ask=True)


def test_training_conversations_are_answered_and_those_of_another_seed_are_others() -> None:
    conversations = training_conversations(12)
    for messages in conversations:
        roles = [message["role"] for message in messages]
        assert roles[0] == "system"
        assert roles[1:] == ["user", "assistant"] * (len(roles) // 2)
        assert len(roles) >= 5
    assert conversations == training_conversations(12)
    assert not any(messages in conversations for messages in training_conversations(12, seed=1))
