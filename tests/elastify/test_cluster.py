"""A real Ray cluster of two nodes on this machine gives what the serial run gives."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pliant.bundle import LayerPlan, Level, Plan
from pliant.elastify.calibration import token_windows
from pliant.elastify.cluster import Cluster, check_cluster, connect
from pliant.elastify.examples import Example
from pliant.elastify.importance import taylor_scores
from pliant.elastify.recovery.data import RecoveryData
from pliant.elastify.recovery.options import RecoveryOptions
from pliant.elastify.recovery.recover import recover_levels
from pliant.elastify.source import config_of
from pliant.errors import ElastifyError, TrainingError
from support.tiny_hf import make_model

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    # Ray leaves sockets and files to be closed by the interpreter.
    pytest.mark.filterwarnings("ignore"),
]

LEVELS = tuple(
    Level(ratio, Plan((LayerPlan(kv_heads, 2, ff),) * 3), ratio)
    for ratio, kv_heads, ff in ((0.3, 1, 32), (0.5, 2, 64), (0.8, 3, 96))
)
OPTIONS = RecoveryOptions(rank=2, steps=4, batch_tokens=64)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from ray.cluster_utils import Cluster as LocalCluster

    nodes = LocalCluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    yield nodes.address
    nodes.shutdown()


@pytest.fixture(scope="module")
def cluster(address: str) -> Iterator[Cluster]:
    with connect(address) as connected:
        yield connected


def recovery_data() -> RecoveryData:
    random = np.random.default_rng(0)
    weights = np.ones(12, np.float32)
    weights[0] = 0
    examples = tuple(Example(random.integers(6, 300, 12), weights) for _ in range(12))
    return RecoveryData(examples[:10], examples[10:], "data")


def test_both_nodes_are_used(cluster: Cluster) -> None:
    assert cluster == Cluster(threads=1, num_tasks=2)


def test_the_sum_of_shards_is_the_serial_result(cluster: Cluster) -> None:
    model = make_model()
    config = config_of(model.config)
    batches = token_windows(Example.text(list(range(6, 306)) * 2), windows=5, window_tokens=32)
    found, expected = cluster.scores(model, config, batches), taylor_scores(model, config, batches)
    assert np.array_equal(found.heads, expected.heads)
    assert np.array_equal(found.neurons, expected.neurons)


def test_levels_learn_what_they_learn_serially(cluster: Cluster, tmp_path: Path) -> None:
    model, data = make_model(), recovery_data()
    expected = recover_levels(model, LEVELS, data, OPTIONS)
    found = cluster.recover_levels(model, LEVELS, data, OPTIONS, checkpoints=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    for one, other in zip(found, expected, strict=True):
        assert one.ratio == other.ratio
        assert one.training_losses == other.training_losses
        assert one.recovered_loss == other.recovered_loss
        for name in one.factors:
            for x, y in zip(one.factors[name], other.factors[name], strict=True):
                assert np.array_equal(x, y)


def test_what_goes_wrong_in_a_task_is_told(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"checkpoint .* cannot be written"):
        cluster.recover_levels(
            make_model(), LEVELS[:1], recovery_data(), OPTIONS, checkpoints=tmp_path / "file"
        )
    config = config_of(make_model().config)
    with pytest.raises(ElastifyError, match="a task on the Ray cluster failed: AttributeError"):
        cluster.scores(
            torch.nn.Module(), config, token_windows(Example.text(list(range(6, 66))), 2, 16)
        )


def test_no_cluster_at_the_address() -> None:
    check_cluster(None)
    for address in ("nowhere", "127.0.0.1:9", "nowhere.invalid:6379", "127.0.0.1:99999"):
        with pytest.raises(ElastifyError, match="ray start --head"):
            check_cluster(address)
