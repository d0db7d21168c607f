import pytest

from support.synthetic_latency import FakeModel, make_model


@pytest.fixture
def fake_model() -> FakeModel:
    return make_model()


@pytest.fixture
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else runs during the tests."""
    monkeypatch.setattr("pliant.slo.store.BusyCores.others", lambda self: 0.0)
