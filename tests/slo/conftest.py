import pytest

from support.synthetic_latency import FakeModel, make_model


@pytest.fixture
def fake_model() -> FakeModel:
    return make_model()
