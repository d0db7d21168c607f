from collections.abc import Iterator
from pathlib import Path

import pytest

from pliant.engine.tokenizer import Tokenizer
from support.tiny_gguf import make_tiny_gguf


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", type="F32")


@pytest.fixture(scope="session")
def tokenizer(tiny_path: Path) -> Iterator[Tokenizer]:
    with Tokenizer(tiny_path) as tokenizer:
        yield tokenizer
