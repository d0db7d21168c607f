"""Every family in the engine against llama.cpp on the same file, and at every size of plan."""

from pathlib import Path

import numpy as np
import pytest

from pliant.bundle import FAMILIES, LayerPlan, Plan, open_bundle
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from support.llama_reference import LlamaReference
from support.tiny_gguf import make_tiny_gguf

TOKENS = np.random.default_rng(7).integers(6, 300, 320).tolist()
WINDOW = 48
# Layers: at least one of each kind (window and none, rotated and not).
SHAPE = {"hidden": 256, "heads": 8, "kv_heads": 4, "ff": 512, "context": 1024}
SPECIAL = {
    "smollm3": {"layers": 4},
    "gemma2": {"layers": 2, "window": WINDOW},
    "gemma3": {"layers": 6, "window": WINDOW, "head_dim": 64, "rope_scale": 8.0},
    "qwen3": {"head_dim": 64},
    "qwen2": {"tied": False},
    "phi3": {"rope_dim": 24},
}


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
