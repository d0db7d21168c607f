"""The run time against torch, and what must hold whatever the text."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.bundle import Bundle
from pliant.errors import RequestError, SloError
from pliant.tlm.model import TinyModel
from pliant.tlm.training.export import write_tlm
from pliant.tlm.training.network import TinyNetwork
from support.tiny_bundle import make_tiny_bundle
from support.tiny_tlm import SMALL, TEXTS, keeps, tiny_network, torch_reading

SLOS: list[tuple[float | None, float | None]] = [(None, None), (0.4, 0.6), (0.2, 0.5)]
# Largest difference of a probability. Q8_0's steps are 1/127 of the largest of 32 weights, and
# activations are rounded alike; these random weights answer more to that than trained ones.
TOLERANCE = {"F32": 2e-5, "F16": 1e-2, "Q8_0": 0.15}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def network(bundle: Bundle) -> TinyNetwork:
    return tiny_network(bundle)


@pytest.fixture(scope="module")
def model(
    bundle: Bundle, network: TinyNetwork, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TinyModel]:
    path = tmp_path_factory.mktemp("tlm") / "tlm.gguf"
    write_tlm(path, network, "F32")
    with TinyModel(path, threads=1, model=bundle.gguf.path) as model:
        yield model


@pytest.mark.parametrize("weights", list(TOLERANCE))
def test_equals_torch(bundle: Bundle, network: TinyNetwork, tmp_path: Path, weights: Any) -> None:
    write_tlm(tmp_path / "tlm.gguf", network, weights)
    with TinyModel(tmp_path / "tlm.gguf", threads=2, model=bundle.gguf.path) as model:
        for text in TEXTS[:4]:
            for slo in SLOS:
                found, expected = model.read(text, *slo), torch_reading(network, text, *slo)
                atol = TOLERANCE[weights]
                np.testing.assert_allclose(keeps(found.tokens), expected.keep, atol=atol)
                np.testing.assert_allclose(found.levels, expected.levels, atol=atol)
                np.testing.assert_allclose(found.prompt_ratios, expected.prompt_ratios, atol=atol)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_one_layer_in_every_part(bundle: Bundle, tmp_path: Path, activation: Any) -> None:
    shape = SMALL.__class__(hidden_size=32, ff=64, num_heads=1, window=40, activation=activation)
    network = tiny_network(bundle, shape, seed=3)
    write_tlm(tmp_path / "tlm.gguf", network, "F32")
    with TinyModel(tmp_path / "tlm.gguf", threads=1, model=bundle.gguf.path) as model:
        found, expected = model.read(TEXTS[3], 0.5, 0.5), torch_reading(network, TEXTS[3], 0.5, 0.5)
    np.testing.assert_allclose(keeps(found.tokens), expected.keep, atol=2e-5)
    np.testing.assert_allclose(found.levels, expected.levels, atol=2e-5)


def test_scores_do_not_depend_on_the_slo_and_the_decision_does(model: TinyModel) -> None:
    readings = [model.read(TEXTS[3], *slo) for slo in SLOS]
    assert len({reading.tokens for reading in readings}) == 1
    assert len({reading.levels for reading in readings}) == len(SLOS)


def test_without_scores_the_decision_is_the_same(model: TinyModel) -> None:
    for text in TEXTS:
        both, alone = model.read(text, 0.4), model.read(text, 0.4, scored=False)
        assert alone.tokens == ()
        np.testing.assert_allclose(alone.levels, both.levels, atol=1e-6)
        np.testing.assert_allclose(alone.prompt_ratios, both.prompt_ratios, atol=1e-6)


def test_many_texts_at_once_are_scored_as_one_by_one(model: TinyModel) -> None:
    together = model.scores(TEXTS * 8)
    for text, tokens in zip(TEXTS * 8, together, strict=True):
        alone = model.read(text).tokens
        assert [(t.start, t.end) for t in tokens] == [(t.start, t.end) for t in alone]
        np.testing.assert_allclose(keeps(tokens), keeps(alone), atol=1e-5)


def check(model: TinyModel, text: str) -> None:
    reading = model.read(text, 0.5, 0.5)
    last = 0
    for token in reading.tokens:
        assert last <= token.start < token.end <= len(text)
        assert 0 <= token.keep <= 1
        last = token.end
    for shares in (reading.levels, reading.prompt_ratios):
        assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert (len(reading.levels), len(reading.prompt_ratios)) == (3, 10)


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(), max_size=300))
def test_any_text_can_be_read(model: TinyModel, text: str) -> None:
    check(model, text)


def test_a_very_long_text(model: TinyModel) -> None:
    check(model, "The wifi is on. " * 6250)


def test_one_very_long_word(model: TinyModel) -> None:
    check(model, "x" * 20_000)


def test_several_threads_get_their_own_answers(model: TinyModel) -> None:
    alone = [model.read(text, 0.5) for text in TEXTS]
    found: dict[int, Any] = {}

    def work(number: int) -> None:
        found[number] = [model.read(text, 0.5) for text in TEXTS]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(4)] == [alone] * 4


def test_what_is_no_slo_is_refused(model: TinyModel) -> None:
    with pytest.raises(SloError, match="ttft is 1.5"):
        model.read("a", 1.5)


def test_a_closed_model_says_so(bundle: Bundle, network: TinyNetwork, tmp_path: Path) -> None:
    write_tlm(tmp_path / "tlm.gguf", network)
    model = TinyModel(tmp_path / "tlm.gguf", model=bundle.gguf.path)
    model.close()
    model.close()
    with pytest.raises(RequestError, match="closed"):
        model.read("a")
