from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pliant.bundle import Bundle
from pliant.contexts.contexts import Contexts
from pliant.contexts.options import ContextOptions
from pliant.engine.model import ElasticModel
from pliant.engine.options import EngineOptions
from support.adapters import add_adapters
from support.storage import FAST
from support.tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="session")
def context_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Three levels, the lower two with adapters, and a chat template."""
    folder = tmp_path_factory.mktemp("contexts") / "tiny"
    shape = {"layers": 3, "hidden": 128, "heads": 8, "kv_heads": 4, "ff": 256, "context": 1024}
    return add_adapters(make_tiny_bundle(folder, type="F16", **shape))


@pytest.fixture
def model(context_bundle: Bundle) -> Iterator[ElasticModel]:
    with ElasticModel(context_bundle, EngineOptions(threads=1, slots=4)) as model:
        yield model


@pytest.fixture
def open_contexts(model: ElasticModel, tmp_path: Path) -> Iterator[Callable[..., Contexts]]:
    """Opens the contexts in one folder; lossless unless asked otherwise."""
    opened: list[Contexts] = []

    def open_them(**options) -> Contexts:
        options = {"bits": 16, "storage": FAST, **options}
        opened.append(Contexts(model, tmp_path / "contexts", ContextOptions(**options)))
        return opened[-1]

    yield open_them
    for contexts in opened:
        contexts.close()
