"""One small bundle with a TLM, and questions."""

from pathlib import Path

import pytest

from pliant.bundle import Bundle
from pliant.engine.questions import Question, read_questions
from support.tiny_bundle import make_tiny_bundle
from support.tiny_tasks import add_tiny_tlm, write_tasks


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return add_tiny_tlm(make_tiny_bundle(tmp_path_factory.mktemp("labels") / "bundle"))


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks") / "tasks.jsonl")


@pytest.fixture(scope="session")
def questions(tasks: Path) -> tuple[Question, ...]:
    return read_questions(tasks)
