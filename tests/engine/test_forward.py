"""Forward passes against llama.cpp, and against each other."""

from pathlib import Path

import numpy as np
import pytest

from pliant.bundle import LayerPlan, Plan, open_bundle
from pliant.engine.engine import MAX_BATCH, Engine
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from pliant.errors import ContextOverflowError, GgmlError, PlanError, PliantError, RequestError
from pliant.ggml.declarations import bind
from pliant.ggml.quantize import QUANTIZED_TYPES
from support.llama_reference import LlamaReference
from support.silenced import silence_other_units
from support.tiny_gguf import make_tiny_gguf

TOKENS = np.random.default_rng(7).integers(6, 300, 320).tolist()
# A product of many rows sums in another order than one of a single row, and rounds activations
# to other 8-bit values.
BATCH_TOLERANCE = {"F32": 1e-3, "F16": 2e-3, "Q8_0": 1e-5, "Q4_0": 1e-5, "Q4_K": 0.05}
SUB_PLAN = Plan((LayerPlan(2, 2, 512), LayerPlan(1, 2, 256), LayerPlan(4, 2, 256)))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    """Models by weight type, made once."""
    folder = tmp_path_factory.mktemp("models")

    def get(type_: str) -> Path:
        path = folder / f"{type_}.gguf"
        if not path.exists():
            make_tiny_gguf(
                path,
                layers=3,
                hidden=256,
                heads=8,
                kv_heads=4,
                head_dim=128,
                ff=768,
                type=type_,
                context=1024,
                rope_factors=True,
                tied=type_ != "F16",
            )
        return path

    return get


def engine_of(path: Path, **options) -> Engine:
    return Engine(open_bundle(path), EngineOptions(threads=1, **options))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference as a share of the range of the logits."""
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.ptp(b))


@pytest.mark.parametrize(
    ("type_", "layout"),
    [
        ("F16", "plain"),
        ("Q8_0", "plain"),
        ("Q4_0", "plain"),
        ("Q4_K", "plain"),
        ("Q4_0", "repacked"),
        ("Q4_K", "repacked"),
    ],
)
def test_full_level_equals_llama_cpp(models, type_: str, layout: str) -> None:
    path = models(type_)
    reference = LlamaReference(path, repack=layout == "repacked")
    engine = engine_of(path, layout=layout)
    full = Plan.full(engine.architecture)
    for count in (1, 16, 300):
        prompt = TOKENS[:count]
        ours = engine.forward(full, [Span(0, prompt, 0, "all")])
        assert difference(ours, reference.logits(prompt)) <= 1e-5
        for step in range(3):
            token = TOKENS[count + step]
            ours = engine.forward(full, [Span(0, [token], count + step)])
            assert difference(ours, reference.logits([token], count + step)) <= 1e-5
    engine.forward(full, [Span(1, TOKENS[:100], 0, "none")])
    reference.logits(TOKENS[:100])
    ours = engine.forward(full, [Span(1, TOKENS[100:300], 100, "all")])
    assert difference(ours, reference.logits(TOKENS[100:300], 100)) <= 1e-5
    reference.close()
    engine.close()


@pytest.mark.parametrize("type_", sorted(t.name for t in QUANTIZED_TYPES) + ["F32", "BF16"])
def test_every_weight_type_equals_llama_cpp(tmp_path: Path, type_: str) -> None:
    try:
        path = make_tiny_gguf(tmp_path / "m.gguf", hidden=256, ff=256, kv_heads=2, type=type_)
    except KeyError:
        pytest.skip(f"the gguf package cannot write {type_}")
    reference, engine = LlamaReference(path), engine_of(path, layout="plain")
    ours = engine.forward(Plan.full(engine.architecture), [Span(0, TOKENS[:16], 0, "all")])
    assert difference(ours, reference.logits(TOKENS[:16])) <= 1e-5
    reference.close()
    engine.close()


@pytest.mark.parametrize("type_", ["F32", "F16", "Q8_0", "Q4_0", "Q4_K"])
@pytest.mark.parametrize("layout", ["plain", "repacked", "auto"])
def test_a_batch_equals_one_token_at_a_time(models, type_: str, layout: str) -> None:
    engine = engine_of(models(type_), layout=layout)
    plans = [Plan.full(engine.architecture)]
    if type_ != "Q4_K":
        plans.append(SUB_PLAN)
    plans.append(Plan((LayerPlan(2, 2, 256), LayerPlan(2, 2, 512), LayerPlan(4, 2, 0))))
    for plan in plans:
        batch = engine.forward(plan, [Span(0, TOKENS[:20], 0, "all")])
        steps = [engine.forward(plan, [Span(1, [t], i)]).copy() for i, t in enumerate(TOKENS[:20])]
        assert difference(batch, np.concatenate(steps)) <= BATCH_TOLERANCE[type_]
    engine.close()


@pytest.mark.parametrize(
    "plan",
    [
        SUB_PLAN,
        Plan((LayerPlan(2, 1, 512), LayerPlan(0, 2, 256), LayerPlan(4, 2, 0))),
        Plan((LayerPlan(4, 1, 768), LayerPlan(3, 1, 0), LayerPlan(0, 2, 32))),
    ],
)
def test_a_plan_equals_the_full_model_with_the_other_units_silenced(
    models, tmp_path: Path, plan: Plan
) -> None:
    source = models("F32")
    engine = engine_of(source, layout="plain")
    silenced = tmp_path / "silenced.gguf"
    silence_other_units(source, silenced, plan)
    reference = LlamaReference(silenced)
    ours = engine.forward(plan, [Span(0, TOKENS[:50], 0, "all")])
    assert difference(ours, reference.logits(TOKENS[:50])) <= 1e-3
    reference.close()
    engine.close()


def test_spans_of_several_slots_in_one_batch_equal_separate_passes(models) -> None:
    engine = engine_of(models("Q8_0"))
    full = Plan.full(engine.architecture)
    for slot in range(3):
        engine.forward(full, [Span(slot, TOKENS[slot : slot + 10], 0, "none")])
    alone = [
        engine.forward(full, [Span(0, [5], 10)]),
        engine.forward(full, [Span(1, TOKENS[:4], 10, "all")]),
        engine.forward(full, [Span(2, [9], 10)]),
    ]
    together = engine.forward(
        full, [Span(0, [5], 10), Span(1, TOKENS[:4], 10, "all"), Span(2, [9], 10)]
    )
    assert difference(together, np.concatenate(alone)) <= 1e-5
    engine.close()


def test_switching_levels_changes_nothing_but_the_level(models) -> None:
    engine = engine_of(models("Q8_0"))
    full = Plan.full(engine.architecture)
    first = engine.forward(full, [Span(0, TOKENS[:30], 0)])
    small = engine.forward(SUB_PLAN, [Span(1, TOKENS[:30], 0)])
    for _ in range(2):
        np.testing.assert_array_equal(engine.forward(full, [Span(0, TOKENS[:30], 0)]), first)
        np.testing.assert_array_equal(engine.forward(SUB_PLAN, [Span(1, TOKENS[:30], 0)]), small)
    engine.forward(full, [Span(2, TOKENS[:300], 0)])
    np.testing.assert_array_equal(engine.forward(SUB_PLAN, [Span(1, TOKENS[:30], 0)]), small)
    engine.close()


def test_quantized_kv_stays_close_to_f16(models) -> None:
    path = models("Q8_0")
    f16, q8 = engine_of(path), engine_of(path, kv_type="q8_0")
    full = Plan.full(f16.architecture)
    spans = [Span(0, TOKENS[:80], 0, "all")]
    assert 0 < difference(q8.forward(full, spans), f16.forward(full, spans)) <= 0.05
    f16.close()
    q8.close()


def test_a_graph_that_gets_no_memory_harms_no_other(
    models, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(models("Q8_0"))
    full = Plan.full(engine.architecture)
    first = engine.forward(full, [Span(0, TOKENS[:30], 0)])
    with monkeypatch.context() as patch:
        patch.setattr(bind(), "gallocr_alloc_graph", lambda *_: False)
        with pytest.raises(GgmlError, match="not enough memory"):
            engine.forward(full, [Span(1, TOKENS[:31], 0, "none")])
    # ggml has given the old memory back by then: what was built in it must not run again.
    assert not engine._graphs._prompts
    np.testing.assert_array_equal(engine.forward(full, [Span(0, TOKENS[:30], 0)]), first)
    engine.close()


def test_a_copied_slot_goes_on_like_its_source(models) -> None:
    engine = engine_of(models("Q8_0"))
    full = Plan.full(engine.architecture)
    engine.forward(full, [Span(0, TOKENS[:20], 0, "none")])
    engine.copy_slot(0, 3, 20)
    ours = engine.forward(full, [Span(3, [11], 20)])
    np.testing.assert_array_equal(ours, engine.forward(full, [Span(0, [11], 20)]))
    engine.close()


@pytest.mark.parametrize(
    ("spans", "error"),
    [
        ([], RequestError),
        ([Span(0, [], 0)], RequestError),
        ([Span(9, [1], 0)], RequestError),
        ([Span(-1, [1], 0)], RequestError),
        ([Span(0, [1], -1)], RequestError),
        ([Span(0, [320], 0)], RequestError),
        ([Span(0, [-1], 0)], RequestError),
        ([Span(0, [1], 0), Span(0, [1], 1)], RequestError),
        ([Span(0, [1] * (MAX_BATCH + 1), 0)], RequestError),
        ([Span(0, [1, 1], 1023)], ContextOverflowError),
    ],
)
def test_bad_spans_are_refused(models, spans: list[Span], error: type[PliantError]) -> None:
    engine = engine_of(models("Q8_0"))
    with pytest.raises(error):
        engine.forward(Plan.full(engine.architecture), spans)
    engine.close()


@pytest.mark.parametrize(
    "layers",
    [
        [(4, 2, 768)],
        [(5, 2, 768)] * 3,
        [(4, 2, 100)] * 3,
        [(4, 3, 768)] * 3,
        [(0, 0, 0)] * 3,
    ],
)
def test_plans_the_model_cannot_run_are_refused(models, layers) -> None:
    engine = engine_of(models("Q8_0"))
    plan = Plan(tuple(LayerPlan(*layer) for layer in layers))
    with pytest.raises(PlanError):
        engine.forward(plan, [Span(0, [1], 0)])
    engine.close()


def test_a_width_off_the_quantization_blocks_is_refused(models) -> None:
    engine = engine_of(models("Q4_K"))
    plan = Plan((LayerPlan(4, 2, 96),) * 3)
    with pytest.raises(PlanError, match="blocks of 256"):
        engine.forward(plan, [Span(0, [1], 0)])
    engine.close()


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "fast"},
        {"threads": 0},
        {"threads": 1.5},
        {"slots": True},
        {"slots": 0},
        {"context_length": 0},
        {"kv_type": "q4_0"},
    ],
)
def test_options_outside_their_range_are_refused(options) -> None:
    with pytest.raises(RequestError, match=next(iter(options))):
        EngineOptions(**options)


def test_a_context_longer_than_the_models_is_refused(models) -> None:
    with pytest.raises(RequestError, match="at most 1024"):
        engine_of(models("Q8_0"), context_length=2048)


def test_a_closed_engine_says_so(models) -> None:
    engine = engine_of(models("Q8_0"))
    engine.close()
    engine.close()
    with pytest.raises(RequestError, match="closed"):
        engine.forward(Plan.full(engine.architecture), [Span(0, [1], 0)])


def test_steps_that_follow_each_other_equal_steps_between_other_batches(models) -> None:
    """Up to and beyond the end of a padded KV length, and after a step that is repeated."""
    results = []
    for interrupted in (False, True):
        engine = engine_of(models("F16"))
        full = Plan.full(engine.architecture)
        engine.forward(full, [Span(1, TOKENS[:250], 0, "none")])
        found = []
        for at in (*range(250, 262), 255, *range(256, 260)):
            if interrupted:
                engine.forward(full, [Span(2, TOKENS[:2], 0)])
            found.append(engine.forward(full, [Span(1, [TOKENS[at]], at)]).copy())
        results.append(np.concatenate(found))
    np.testing.assert_array_equal(*results)
