from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.bundle import Architecture, Plan, check_levels, cost_ratio
from pliant.elastify.levels import choose_levels
from support.architectures import LLAMA_1B

# With Llama 2's vocabulary the output head leaves room for every level.
SMALL_HEAD = replace(LLAMA_1B, vocab_size=32000)
ANCHORS = (0, 1, 15)


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    kv_heads = draw(st.integers(1, 8))
    head_dim = draw(st.sampled_from([8, 32, 64]))
    heads_per_kv = draw(st.integers(1, 4))
    return replace(
        SMALL_HEAD,
        num_layers=draw(st.integers(1, 8)),
        hidden_size=draw(st.sampled_from([64, 256, 576])),
        num_heads=kv_heads * heads_per_kv,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        ff=draw(st.integers(1, 900)),
        vocab_size=draw(st.sampled_from([300, 4096, 50000])),
    )


@settings(deadline=None, max_examples=60)
@given(
    architecture=architectures(),
    block=st.sampled_from([1, 32]),
    lora_rank=st.sampled_from([0, 8]),
    data=st.data(),
)
def test_levels_are_nested_honest_and_within_their_ratio(
    architecture: Architecture, block: int, lora_rank: int, data: st.DataObject
) -> None:
    layers = range(architecture.num_layers)
    anchors = data.draw(st.sets(st.sampled_from(layers)))
    choice = choose_levels(architecture, sorted(anchors), block=block, lora_rank=lora_rank)
    check_levels(architecture, choice.levels)
    for level in choice.levels:
        if level.ratio < 1.0:
            cost = cost_ratio(architecture, level.plan, lora_rank=lora_rank)
            assert cost <= level.ratio + 1e-9
        for layer in level.plan.layers:
            columns = layer.heads * architecture.head_dim
            assert layer.kv_heads >= 1
            assert layer.ff >= 1
            assert columns % block == 0 or layer.kv_heads == architecture.num_kv_heads
    assert len(choice.levels) == 9 or choice.notes


def test_a_large_model_has_all_nine_levels_close_to_their_targets() -> None:
    choice = choose_levels(SMALL_HEAD, ANCHORS, block=32)
    assert [level.ratio for level in choice.levels] == [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert not choice.notes
    assert all(level.ratio - level.cost < 0.02 for level in choice.levels)


def test_anchors_stay_whole_while_the_others_keep_half() -> None:
    levels = {level.ratio: level for level in choose_levels(SMALL_HEAD, ANCHORS).levels}
    for level in levels.values():
        widths = {layer for index, layer in enumerate(level.plan.layers) if index not in ANCHORS}
        assert len(widths) == 1
        other = widths.pop()
        for anchor in (level.plan.layers[index] for index in ANCHORS):
            assert anchor.kv_heads == min(8, 2 * other.kv_heads)
            assert min(8192, 2 * other.ff) <= anchor.ff <= 2.2 * other.ff or anchor.ff == 8192
    full = Plan.full(SMALL_HEAD).layers[0]
    assert levels[0.7].plan.layers[ANCHORS[0]] == full
    assert levels[0.2].plan.layers[ANCHORS[0]] != full


def test_attention_and_mlp_shrink_together() -> None:
    for level in choose_levels(SMALL_HEAD, ()).levels:
        layer = level.plan.layers[0]
        assert abs(layer.kv_heads / 8 - layer.ff / 8192) <= 0.2


def test_a_floor_is_said_and_not_faked() -> None:
    architecture = replace(SMALL_HEAD, num_layers=2, hidden_size=256, ff=512, vocab_size=50000)
    choice = choose_levels(architecture, (0,))
    smallest = choice.levels[0]
    assert smallest.cost == cost_ratio(architecture, smallest.plan)
    assert smallest.cost <= smallest.ratio < smallest.cost + 0.01
    assert {(layer.kv_heads, layer.ff) for layer in smallest.plan.layers} == {(1, 32)}
    assert "cannot be reached" in choice.notes[-1]
    assert f"{smallest.cost:.3f}" in choice.notes[-1]


def test_levels_that_would_be_equal_become_one() -> None:
    architecture = replace(SMALL_HEAD, num_layers=1, num_heads=1, num_kv_heads=1, ff=64)
    choice = choose_levels(architecture, ())
    assert len({level.plan for level in choice.levels}) == len(choice.levels)
