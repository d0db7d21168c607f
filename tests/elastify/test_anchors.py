import pytest
import torch

from pliant.elastify.anchors import choose_anchors, default_anchor_count, losses_without_layers
from pliant.elastify.calibration import mean_loss, token_windows
from pliant.elastify.examples import Example
from pliant.errors import ElastifyError
from support.tiny_hf import make_model

BATCHES = token_windows(Example.text(list(range(6, 306))), windows=2, window_tokens=32)


@pytest.mark.parametrize(("layers", "count"), [(1, 1), (6, 1), (16, 3), (26, 5), (32, 6)])
def test_about_a_fifth_of_the_layers(layers: int, count: int) -> None:
    assert default_anchor_count(layers) == count


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_leaving_out_a_layer_that_does_nothing_changes_nothing(kind: str) -> None:
    model = make_model(kind)
    layers = model.model.layers
    with torch.no_grad():
        layers[1].self_attn.o_proj.weight.zero_()
        layers[1].mlp.down_proj.weight.zero_()
    losses = losses_without_layers(model, BATCHES)
    full = mean_loss(model, BATCHES)
    assert losses[1] == pytest.approx(full)
    assert losses[0] != pytest.approx(full)
    assert model.model.layers is layers


def test_the_costliest_layers_are_anchors() -> None:
    assert choose_anchors([3.0, 9.0, 1.0, 9.5], 2) == (1, 3)
    assert choose_anchors([3.0, 9.0], 0) == ()


def test_more_anchors_than_layers_are_refused() -> None:
    with pytest.raises(ElastifyError, match="3 anchor layers"):
        choose_anchors([1.0, 2.0], 3)
