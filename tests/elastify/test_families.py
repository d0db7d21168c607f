"""Every model type through the whole chain: transformers, the GGUF file, llama.cpp, the engine."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pliant.bundle import LayerPlan, Plan, check, open_bundle
from pliant.elastify import ElastifyOptions, elastify
from pliant.elastify.export import write_gguf, write_submodel_gguf
from pliant.elastify.families import SOURCES
from pliant.elastify.fused import split_fused
from pliant.elastify.importance import random_order
from pliant.elastify.reorder import reorder_model
from pliant.elastify.source import config_of, load_model, read_config
from pliant.elastify.submodel import logits, slice_model
from pliant.elastify.vocabulary import read_vocabulary
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from pliant.errors import ElastifyError
from pliant.export import export_gguf
from support.llama_reference import LlamaReference, reference_logits
from support.tiny_hf import LONGROPE_CONTEXT, WINDOW, make_folder, make_model

KINDS = sorted(SOURCES)
SIZES = (LayerPlan(4, 2, 128), LayerPlan(2, 2, 64), LayerPlan(1, 1, 32), LayerPlan(3, 1, 96))
GAPS = (LayerPlan(4, 2, 0), LayerPlan(0, 0, 64), LayerPlan(0, 0, 0), LayerPlan(2, 2, 128))
MAX_ERROR = 0.02  # of float16 weights, as a share of the logits' standard deviation


def plan_of(layers: tuple[LayerPlan, ...], model: Any) -> Plan:
    count = model.config.num_hidden_layers
    return Plan(tuple(layers[index % len(layers)] for index in range(count)))


@pytest.fixture(scope="module")
def models() -> Callable[[str], Any]:
    made: dict[str, Any] = {}

    def get(kind: str) -> Any:
        if kind not in made:
            made[kind] = split_fused(make_model(kind))
        return made[kind]

    return get


@pytest.fixture(scope="module")
def exported(
    models: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The F16 file of a model type, written once."""
    folder = tmp_path_factory.mktemp("families")
    vocabulary = read_vocabulary(make_folder(folder / "hf"), 320)

    def get(kind: str) -> Path:
        path = folder / f"{kind}.gguf"
        if not path.exists():
            write_gguf(models(kind), vocabulary, path, "F16", "tiny")
        return path

    return get


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())


def engine_of(path: Path, **options: Any) -> Engine:
    return Engine(open_bundle(path), EngineOptions(slots=1, threads=1, layout="plain", **options))


def masked(model: Any, plan: Plan) -> Any:
    """The whole model with zeros where the plan's units end: another road to the same result."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for block, layer in zip(model.model.layers, plan.layers, strict=True):
            output = block.self_attn.o_proj.weight
            heads = output.view(output.shape[0], 4, 2, -1)
            heads[:, layer.kv_heads :] = 0
            heads[:, :, layer.heads_per_kv :] = 0
            block.mlp.down_proj.weight[:, layer.ff :] = 0
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_is_transformers_own(
    kind: str, tokens: torch.Tensor, tmp_path: Path
) -> None:
    folder = make_folder(tmp_path, kind)
    assert read_config(folder).model_type == kind
    loaded, original = load_model(folder), make_model(kind)
    assert len(tokens) > WINDOW
    torch.testing.assert_close(logits(loaded, tokens[None]), logits(original, tokens[None]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_reordered_model_computes_the_same(
    kind: str, models: Callable[[str], Any], tokens: torch.Tensor
) -> None:
    model = copy.deepcopy(models(kind))
    before = logits(model, tokens[None])
    config = config_of(model.config)
    reorder_model(model, config, random_order(config, seed=5))
    assert (logits(model, tokens[None]) - before).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [SIZES, GAPS])
def test_a_sub_model_is_the_model_without_the_other_units(
    kind: str, layers: tuple[LayerPlan, ...], models: Callable[[str], Any], tokens: torch.Tensor
) -> None:
    model = models(kind)
    plan = plan_of(layers, model)
    found = logits(slice_model(model, plan), tokens[None])
    torch.testing.assert_close(found, logits(masked(model, plan), tokens[None]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sub_model_generates_with_a_cache(
    kind: str, models: Callable[[str], Any], tokens: torch.Tensor
) -> None:
    small = slice_model(models(kind), plan_of(SIZES, models(kind)))
    prefill = small(input_ids=tokens[None, :-1], use_cache=True)
    step = small(input_ids=tokens[None, -1:], past_key_values=prefill.past_key_values)
    torch.testing.assert_close(step.logits[:, -1], logits(small, tokens[None])[:, -1])


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_computes_what_transformers_does(
    kind: str, models: Callable[[str], Any], exported: Callable[[str], Path], tokens: torch.Tensor
) -> None:
    expected = logits(models(kind), tokens[None])[0].numpy()
    reference = LlamaReference(exported(kind), context=LONGROPE_CONTEXT)
    assert relative_error(reference.logits(tokens.tolist()), expected) <= MAX_ERROR
    reference.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [SIZES[:1], SIZES, GAPS])
def test_the_engine_computes_what_transformers_does_at_every_size(
    kind: str,
    layers: tuple[LayerPlan, ...],
    models: Callable[[str], Any],
    exported: Callable[[str], Path],
    tokens: torch.Tensor,
) -> None:
    plan = plan_of(layers, models(kind))
    expected = logits(slice_model(models(kind), plan), tokens[None])[0].numpy()
    engine = engine_of(exported(kind))
    found = engine.forward(plan, [Span(0, tokens.tolist(), 0, "all")])
    assert relative_error(found, expected) <= MAX_ERROR
    engine.close()


@pytest.mark.parametrize(("context", "length"), [(256, 60), (512, 300)])
def test_long_contexts_take_the_long_rotary_factors(
    context: int, length: int, models: Callable[[str], Any], exported: Callable[[str], Path]
) -> None:
    assert (context > LONGROPE_CONTEXT) == (length > LONGROPE_CONTEXT)
    tokens = torch.randint(6, 300, (length,), generator=torch.Generator().manual_seed(3))
    expected = logits(models("phi3"), tokens[None])[0].numpy()
    engine = engine_of(exported("phi3"), context_length=context)
    plan = Plan.full(engine.architecture)
    found = engine.forward(plan, [Span(0, tokens.tolist(), 0, "all")])
    assert relative_error(found, expected) <= MAX_ERROR
    engine.close()


def test_a_context_is_as_long_as_the_short_rotary_factors_reach(
    exported: Callable[[str], Path],
) -> None:
    engine = engine_of(exported("phi3"))
    assert engine.context_length == LONGROPE_CONTEXT
    engine.close()


def test_stand_alone_sub_models_are_written_of_llamas_only(
    models: Callable[[str], Any], tmp_path: Path
) -> None:
    model = models("qwen2")
    vocabulary = read_vocabulary(make_folder(tmp_path / "hf"), 320)
    with pytest.raises(ElastifyError, match="no qwen2 model whose layers differ"):
        write_submodel_gguf(
            model, plan_of(SIZES, model), vocabulary, tmp_path / "m.gguf", "F16", "m"
        )


@pytest.mark.parametrize("kind", ["qwen2", "phi3", "gemma3_text"])
def test_makes_an_elastic_bundle(kind: str, calibration_file: Path, tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", kind, intermediate_size=256)
    options = ElastifyOptions(windows=2, window_tokens=32)
    bundle = elastify(source, tmp_path / "out", calibration=calibration_file, options=options)
    assert check(bundle) == []
    assert len(bundle.levels) > 3


def test_levels_whose_layers_are_alike_run_in_llama_cpp(
    calibration_file: Path, tmp_path: Path, tokens: torch.Tensor
) -> None:
    source = make_folder(tmp_path / "source", "qwen3", intermediate_size=256)
    options = ElastifyOptions(
        plan="uniform",
        anchors=0,
        quantization="F16",
        windows=2,
        window_tokens=32,
        targets=(0.5, 0.7),
    )
    bundle = elastify(source, tmp_path / "out", calibration=calibration_file, options=options)
    assert [level.ratio for level in bundle.levels] == [0.5, 0.7, 1.0]
    for level in bundle.levels:
        path = export_gguf(bundle, level, tmp_path / f"{level.ratio}.gguf")
        engine = Engine(bundle, EngineOptions(slots=1, threads=1, layout="plain"))
        found = engine.forward(level, [Span(0, tokens.tolist(), 0, "all")])
        engine.close()
        assert relative_error(reference_logits(path, tokens.tolist()), found) <= MAX_ERROR
