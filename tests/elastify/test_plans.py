import json
from typing import Any

import pytest

from pliant.bundle import check_levels
from pliant.elastify.calibration import mean_loss, token_windows
from pliant.elastify.examples import Example
from pliant.elastify.plans import PlanChoice, choose_plans
from pliant.elastify.source import config_of
from pliant.elastify.submodel import slice_model
from pliant.errors import ElastifyError
from support.shapes import architecture_of
from support.tiny_hf import make_model

BATCHES = token_windows(Example.text(list(range(6, 306)) * 2), windows=4, window_tokens=32)


def chosen(model: Any, **options: Any) -> Any:
    config = config_of(model.config)
    return choose_plans(
        model, config, architecture_of(config), BATCHES, (0,), targets=(0.5, 0.8), **options
    )


def test_takes_the_kind_that_the_other_half_of_the_text_likes_better() -> None:
    model = make_model()
    found = chosen(model)
    means = {kind: (losses[0.5] + losses[0.8]) / 2 for kind, losses in found.losses.items()}
    assert set(means) == {"uniform", "global"}
    assert found.kind == min(means, key=lambda kind: means[kind])
    check_levels(architecture_of(config_of(model.config)), found.choice.levels)
    judged = [BATCHES[0].take([1, 3])]
    for level in found.choice.levels:
        expected = mean_loss(slice_model(model, level.plan), judged)
        assert found.losses[found.kind][level.ratio] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["uniform", "global"])
def test_measures_only_what_is_asked_for(kind: str) -> None:
    found = chosen(make_model(), kind=kind)
    assert found.kind == kind
    assert set(found.losses) == {kind}
    assert set(found.provenance()["losses"][kind]) == {"0.5", "0.8", "1"}
    assert found.lines()[-1] == f"levels: {kind} plans"
    assert PlanChoice.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ElastifyError, match="'deep' is not one of best, uniform, global"):
        chosen(make_model(), kind="deep")
