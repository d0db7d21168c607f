"""Self-induced labels against a plain search over all strategies."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pliant.bundle import Bundle
from pliant.errors import TrainingError
from pliant.tlm.labels.rows import DecisionRow
from pliant.tlm.training.decision_examples import SLO_PAIRS, decision_examples
from pliant.tlm.training.network import TinyNetwork
from pliant.tlm.training.options import TrainOptions
from support.tiny_bundle import RATIOS, make_tiny_bundle
from support.tiny_tlm import tiny_network

PROMPT_RATIOS = tuple(step / 10 for step in range(1, 11))
TABLES = st.lists(
    st.lists(st.integers(0, 1), min_size=10, max_size=10), min_size=3, max_size=3
).map(lambda rows: tuple(map(tuple, rows)))


def row(right: tuple[tuple[int, ...], ...], text: str = "what is on?") -> DecisionRow:
    probability = tuple(tuple(0.1 + 0.8 * value for value in line) for line in right)
    return DecisionRow(text, RATIOS, PROMPT_RATIOS, right, probability)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> TinyNetwork:
    bundle: Bundle = make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
    return tiny_network(bundle)


def plain_label(
    right: tuple[tuple[int, ...], ...], safety: np.ndarray, ttft: float, tpot: float
) -> tuple[int, int]:
    strategies = [
        (i, j)
        for i, j in product(range(3), range(10))
        if RATIOS[i] * PROMPT_RATIOS[j] <= ttft + 1e-9 and RATIOS[i] <= tpot + 1e-9
    ]

    def weight(strategy: tuple[int, int]) -> tuple[float, int]:
        return round(RATIOS[strategy[0]] * PROMPT_RATIOS[strategy[1]], 6), strategy[0]

    winners = [(i, j) for i, j in strategies if right[i][j]]
    if not winners:
        best = max(safety[i, j] for i, j in strategies)
        winners = [(i, j) for i, j in strategies if safety[i, j] == best]
    return min(winners, key=weight)


@settings(max_examples=30, deadline=None)
@given(tables=st.lists(TABLES, min_size=1, max_size=4))
def test_labels_are_the_lightest_right_strategy_else_the_safest(
    network: TinyNetwork, tables: list[tuple[tuple[int, ...], ...]]
) -> None:
    examples = decision_examples(network, [row(table) for table in tables], TrainOptions())
    safety = np.mean(tables, axis=0)
    for example, table in zip(examples, tables, strict=True):
        for number, (ttft, tpot) in enumerate(SLO_PAIRS):
            level, ratio = plain_label(table, safety, ttft, tpot)
            assert example.levels[number].tolist() == [float(i == level) for i in range(3)]
            assert example.prompt_ratios[number].tolist() == [float(j == ratio) for j in range(10)]


def test_soft_targets_share_what_the_slo_allows(network: TinyNetwork) -> None:
    right = ((0,) * 10, (0,) * 9 + (1,), (0,) * 4 + (1,) * 6)
    [example] = decision_examples(network, [row(right)], TrainOptions(soft_weight=1.0))
    for number, (ttft, tpot) in enumerate(SLO_PAIRS):
        levels, ratios = example.levels[number], example.prompt_ratios[number]
        assert levels.sum() == pytest.approx(1) and ratios.sum() == pytest.approx(1)
        assert all(share == 0 for share, level in zip(levels, RATIOS, strict=True) if level > tpot)
        reach = [ratio for ratio in PROMPT_RATIOS if ratio * RATIOS[0] > ttft + 1e-9]
        assert all(ratios[PROMPT_RATIOS.index(ratio)] == 0 for ratio in reach)
    free = SLO_PAIRS.index((1.0, 1.0))
    assert example.levels[free].argmax() == 2
    assert example.prompt_ratios[free].argmax() == 9


def test_labels_of_another_bundle_are_refused(network: TinyNetwork) -> None:
    foreign = DecisionRow("a", (0.5, 1.0), PROMPT_RATIOS, ((0,) * 10,) * 2, ((0.5,) * 10,) * 2)
    with pytest.raises(TrainingError, match="levels"):
        decision_examples(network, [foreign], TrainOptions())
