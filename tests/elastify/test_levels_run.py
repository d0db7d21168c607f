"""Every level in pliant's engine against two stand-alone models of the same sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pliant.bundle import open_bundle
from pliant.elastify.export import write_gguf, write_submodel_gguf
from pliant.elastify.importance import random_order
from pliant.elastify.levels import choose_levels
from pliant.elastify.reorder import reorder_model
from pliant.elastify.source import config_of
from pliant.elastify.submodel import logits, slice_model
from pliant.elastify.vocabulary import read_vocabulary
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from support.llama_reference import reference_logits
from support.tiny_hf import LLAMA3_ROPE, make_folder, make_model


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"num_key_value_heads": 8, "tie_word_embeddings": False},
        {"head_dim": 32, "rope_parameters": LLAMA3_ROPE},
        {"kind": "mistral"},
    ],
)
def test_every_level_is_the_stand_alone_sub_model(
    overrides: dict, tokens: torch.Tensor, tmp_path: Path
) -> None:
    model = make_model(**overrides)
    with torch.no_grad():
        # Logits of a range of 5: what rounding to F16 changes grows with them.
        model.get_output_embeddings().weight.mul_(0.5)
    config = config_of(model.config)
    reorder_model(model, config, random_order(config, seed=2))
    vocabulary = read_vocabulary(make_folder(tmp_path, **overrides), config.vocab_size)
    write_gguf(model, vocabulary, tmp_path / "model.gguf", "F16", "tiny")
    bundle = open_bundle(tmp_path / "model.gguf")
    span = Span(slot=0, tokens=tokens.tolist(), start=0, outputs="all")
    engine = Engine(bundle, EngineOptions(slots=1, threads=1, layout="plain"))
    try:
        for level in choose_levels(bundle.architecture, (1,)).levels:
            found = engine.forward(level.plan, [span])
            in_transformers = logits(slice_model(model, level.plan), tokens[None])[0].numpy()
            assert np.abs(found - in_transformers).max() <= 2e-2
            path = tmp_path / "sub.gguf"
            write_submodel_gguf(model, level.plan, vocabulary, path, "F16", "sub")
            in_llama_cpp = reference_logits(path, tokens.tolist())
            assert np.abs(found - in_llama_cpp).max() <= 1e-5
    finally:
        engine.close()
