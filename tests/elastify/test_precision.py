"""Sixteen-bit weights computed with in float32, against the same model converted to float32."""

import copy

import pytest
import torch

from pliant.elastify import precision
from pliant.elastify.gradients import each_gradient
from pliant.elastify.importance import taylor_scores
from pliant.elastify.precision import widen, widened
from pliant.elastify.source import config_of
from pliant.elastify.windows import Windows
from support.tiny_hf import make_model

WINDOW = torch.arange(6, 38)[None]
BATCH = Windows(WINDOW, torch.ones(1, 31))


@pytest.fixture(params=[torch.bfloat16, torch.float16])
def models(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple:
    monkeypatch.setattr(precision, "CHUNK_ELEMENTS", 1000)  # several pieces, the last one short
    narrow = make_model(tie_word_embeddings=False).to(request.param)
    wide = copy.deepcopy(narrow).float()
    widen(narrow)
    return narrow, wide


def test_logits_are_those_of_the_float32_model(models: tuple) -> None:
    narrow, wide = models
    found, expected = (model(input_ids=WINDOW, use_cache=False).logits for model in models)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert narrow.lm_head.weight.dtype != torch.float32
    again = copy.deepcopy(narrow)(input_ids=WINDOW, use_cache=False).logits
    assert torch.equal(again, found)


def test_gradients_are_those_of_the_float32_model(models: tuple) -> None:
    narrow, wide = models
    found: dict[tuple[int, str], torch.Tensor] = {}

    def keep(layer: int, projection, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        assert weight.shape == gradient.shape
        found[layer, projection.name] = gradient.float()

    each_gradient(narrow, BATCH, keep)
    wide(input_ids=WINDOW, labels=WINDOW).loss.backward()
    assert len(found) == 3 * 7
    assert list(found)[0][0] == 2  # the last layer's come first
    for (layer, name), gradient in found.items():
        expected = wide.model.layers[layer].get_submodule(name).weight.grad
        difference = (gradient - expected).abs().max()
        assert difference <= 1e-2 * expected.abs().max() + 1e-6, (layer, name)
    assert all(parameter.grad is None for parameter in narrow.parameters())
    assert "forward" not in vars(narrow.model.layers[0])


def test_scores_rank_units_as_the_float32_model_does(models: tuple) -> None:
    narrow, wide = models
    config = config_of(wide.config)
    found, expected = (taylor_scores(model, config, [BATCH]) for model in models)
    assert abs(found.neurons / expected.neurons - 1).max() < 0.05
    assert abs(found.heads / expected.heads - 1).max() < 0.05


def test_a_model_is_widened_for_a_while() -> None:
    model = make_model(tie_word_embeddings=False).to(torch.bfloat16)
    before = model(input_ids=WINDOW, use_cache=False).logits
    with widened(model):
        assert model(input_ids=WINDOW, use_cache=False).logits.dtype == torch.float32
    after = model(input_ids=WINDOW, use_cache=False).logits
    assert after.dtype == torch.bfloat16
    assert torch.equal(before, after)


def test_a_float32_model_is_left_as_it_is() -> None:
    model = make_model()
    widen(model)
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
