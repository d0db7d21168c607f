"""Every model type: what an adapted level computes in torch, it computes in pliant's engine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pliant.bundle import (
    LayerPlan,
    Level,
    Plan,
    adapter_file_name,
    open_bundle,
    with_adapter,
    write_adapter,
    write_bundle,
)
from pliant.elastify.export import write_gguf
from pliant.elastify.families import SOURCES
from pliant.elastify.fused import split_fused
from pliant.elastify.recovery.adapted import adapt, factors_of, gguf_factors, trained_parameters
from pliant.elastify.recovery.batches import Batch
from pliant.elastify.recovery.losses import scored_logits
from pliant.elastify.submodel import logits, slice_model
from pliant.elastify.vocabulary import read_vocabulary
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from support.tiny_hf import make_folder, make_model

SIZES = (LayerPlan(4, 2, 128), LayerPlan(2, 2, 64), LayerPlan(1, 1, 32), LayerPlan(3, 1, 96))
MAX_ERROR = 0.02  # of float16 weights, as a share of the logits' standard deviation


def trained(model: Any, plan: Plan) -> Any:
    """An adapted model whose factors are far from where they start."""
    adapted = adapt(model, plan, rank=4, alpha=6, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in trained_parameters(adapted).values():
            weight.copy_(torch.randn_like(weight) * 0.1)
    return adapted


@pytest.mark.parametrize("kind", sorted(SOURCES))
def test_the_engine_computes_the_adapted_level(
    kind: str, tokens: torch.Tensor, tmp_path: Path
) -> None:
    model = split_fused(make_model(kind))
    count = model.config.num_hidden_layers
    plan = Plan(tuple(SIZES[index % len(SIZES)] for index in range(count)))
    adapted = trained(model, plan)
    path = tmp_path / "m.gguf"
    write_gguf(model, read_vocabulary(make_folder(tmp_path / "hf"), 320), path, "F16", "m")
    architecture = open_bundle(path).architecture
    name = adapter_file_name(0.5)
    factors = gguf_factors(factors_of(adapted), architecture)
    adapter = write_adapter(tmp_path / name, architecture.name, factors, 6, "F16")
    level = with_adapter(architecture, Level(0.5, plan, 0.0), name, adapter)
    levels = (level, Level(1.0, Plan.full(architecture), 1.0))
    bundle = write_bundle(tmp_path / "b", path, levels, {}, {name: tmp_path / name})
    expected = logits(adapted, tokens[None])[0].numpy()
    bare = logits(slice_model(model, plan), tokens[None])[0].numpy()
    engine = Engine(bundle, EngineOptions(threads=1))
    try:
        found = engine.forward(level, [Span(0, tokens.tolist(), 0, "all")])
    finally:
        engine.close()
    scale = expected.std()
    assert np.sqrt(np.mean((found - expected) ** 2)) / scale < MAX_ERROR
    assert np.sqrt(np.mean((bare - expected) ** 2)) / scale > 5 * MAX_ERROR


@pytest.mark.parametrize("kind", sorted(SOURCES))
def test_training_sees_the_logits_of_the_model(kind: str, tokens: torch.Tensor) -> None:
    model = split_fused(make_model(kind))
    weights = torch.zeros(1, len(tokens) - 1)
    weights[0, 20:] = 1.0
    found = scored_logits(model, Batch(tokens[None], weights)).detach()
    torch.testing.assert_close(found, logits(model, tokens[None])[0, 20:-1])
