from collections.abc import Iterator

import pytest

from pliant.engine.model import ElasticModel, load


@pytest.fixture(scope="session")
def pocket() -> Iterator[ElasticModel]:
    with load("pocket") as model:
        yield model
