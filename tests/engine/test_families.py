"""Every family in the engine against llama.cpp on the same file, and at every size of plan."""

from pathlib import Path

import numpy as np
import pytest

from pliant.bundle import FAMILIES, LayerPlan, Plan, open_bundle
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from support.family_shapes import GAPS, SHAPE, SIZES, SPECIAL, WINDOW, plan_of
from support.llama_reference import LlamaReference
from support.silenced import silence_other_units
from support.tiny_gguf import make_tiny_gguf

TOKENS = np.random.default_rng(7).integers(6, 300, 320).tolist()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    """Models by family and weight type, made once."""
    folder = tmp_path_factory.mktemp("families")

    def get(family: str, type_: str, **features) -> Path:
        path = folder / f"{family}-{type_}-{'-'.join(map(str, features.values()))}.gguf"
        if not path.exists():
            shape = {**SHAPE, **SPECIAL.get(family, {}), **features}
            make_tiny_gguf(path, family=family, type=type_, **shape)
        return path

    return get


def engine_of(path: Path, **options) -> Engine:
    return Engine(open_bundle(path), EngineOptions(threads=1, **options))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference as a share of the range of the logits."""
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.ptp(b))


def compare(engine: Engine, reference: LlamaReference) -> None:
    """Prompts within and past the window, steps behind them, and a prompt in two chunks."""
    full = Plan.full(engine.architecture)
    for count in (1, WINDOW - 1, 300):
        ours = engine.forward(full, [Span(0, TOKENS[:count], 0, "all")])
        assert difference(ours, reference.logits(TOKENS[:count])) <= 1e-5
        for step in range(3):
            token = TOKENS[count + step]
            ours = engine.forward(full, [Span(0, [token], count + step)])
            assert difference(ours, reference.logits([token], count + step)) <= 1e-5
    engine.forward(full, [Span(1, TOKENS[:100], 0, "none")])
    reference.logits(TOKENS[:100])
    ours = engine.forward(full, [Span(1, TOKENS[100:300], 100, "all")])
    assert difference(ours, reference.logits(TOKENS[100:300], 100)) <= 1e-5


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize(
    ("type_", "layout"), [("F16", "plain"), ("Q8_0", "plain"), ("Q4_0", "repacked")]
)
def test_the_full_level_equals_llama_cpp(models, family: str, type_: str, layout: str) -> None:
    path = models(family, type_)
    reference = LlamaReference(path, repack=layout == "repacked")
    engine = engine_of(path, layout=layout)
    compare(engine, reference)
    reference.close()
    engine.close()


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("layers", [SIZES, GAPS])
def test_a_plan_equals_the_full_model_with_the_other_units_silenced(
    models, tmp_path: Path, family: str, layers: tuple[LayerPlan, ...]
) -> None:
    source = models(family, "F32")
    engine = engine_of(source, layout="plain")
    plan = plan_of(layers, engine)
    silenced = tmp_path / "silenced.gguf"
    silence_other_units(source, silenced, plan)
    reference = LlamaReference(silenced)
    ours = engine.forward(plan, [Span(0, TOKENS[:100], 0, "all")])
    assert difference(ours, reference.logits(TOKENS[:100])) <= 1e-3
    reference.close()
    engine.close()


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("layout", ["plain", "repacked", "auto"])
def test_batches_equal_one_token_at_a_time_in_any_slot(models, family: str, layout: str) -> None:
    engine = engine_of(models(family, "Q4_0"), layout=layout)
    for plan in (Plan.full(engine.architecture), plan_of(SIZES, engine)):
        steps = [
            np.concatenate(
                [engine.forward(plan, [Span(slot, [t], i)]).copy() for i, t in enumerate(text)]
            )
            for slot, text in enumerate((TOKENS[:60], TOKENS[100:130]))
        ]
        together = engine.forward(
            plan, [Span(2, TOKENS[:60], 0, "all"), Span(3, TOKENS[100:130], 0, "all")]
        )
        assert difference(together, np.concatenate(steps)) <= 1e-5
    engine.close()


@pytest.mark.parametrize("context", [256, 1024])
def test_rotary_factors_go_by_the_context_as_in_llama_cpp(models, context: int) -> None:
    path = models("phi3", "F16", original_context=256)
    reference = LlamaReference(path, context=context)
    engine = engine_of(path, context_length=context)
    full = Plan.full(engine.architecture)
    ours = engine.forward(full, [Span(0, TOKENS[:200], 0, "all")])
    assert difference(ours, reference.logits(TOKENS[:200])) <= 1e-5
    reference.close()
    engine.close()


def test_parts_of_fused_matrices_are_not_copied(models) -> None:
    path = models("phi3", "Q8_0")
    engine = engine_of(path, layout="plain")
    assert engine.memory.copied == 0
    assert engine.memory.mapped == path.stat().st_size
    engine.close()
