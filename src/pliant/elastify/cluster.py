"""The offline work on a Ray cluster (needs the `ray` extra): the same results, side by side.

The model travels through Ray's object store; each running task has a copy of it. pliant must be
installed on every node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch

from pliant.bundle.plan import Level
from pliant.cluster import connected, run_tasks
from pliant.elastify.importance import Estimate, taylor_scores
from pliant.elastify.recovery.data import RecoveryData
from pliant.elastify.recovery.options import RecoveryOptions
from pliant.elastify.recovery.recover import RecoveredLevel, recover_levels
from pliant.elastify.source import SourceConfig
from pliant.elastify.units import UnitScores
from pliant.elastify.windows import Windows, joined
from pliant.progress import Track, untracked


@dataclass(frozen=True)
class Cluster:
    """A connection. Every task takes `threads` CPUs of a node; `num_tasks` run at a time.

    With as many threads here, results equal those of the same work done here bit for bit.
    """

    threads: int
    num_tasks: int

    def scores(
        self,
        model: Any,
        config: SourceConfig,
        batches: Sequence[Windows],
        score: Estimate = taylor_scores,
        track: Track = untracked,
    ) -> UnitScores:
        """`score` over all windows: shards of them run on the cluster, and their values are added
        in the windows' order."""
        windows = joined(batches).split(1)
        per_shard = -(-len(windows) // self.num_tasks)
        shards = [windows[at : at + per_shard] for at in range(0, len(windows), per_shard)]
        tasks = [(score, config, shard) for shard in shards]
        done = track(self._run(_scores, model, tasks), "importance of units", len(tasks))
        # In the windows' order, as `score` does: what a sum of floats is depends on it.
        total: UnitScores = reduce(add, [one for found in done for one in found])
        return total

    def recover_levels(
        self,
        model: Any,
        levels: Sequence[Level],
        data: RecoveryData,
        options: RecoveryOptions,
        *,
        checkpoints: Path | None = None,
        track: Track = untracked,
    ) -> tuple[RecoveredLevel, ...]:
        """`recovery.recover.recover_levels`, one task per level.

        A task finds its checkpoint again where nodes share the folder, or it runs on the same one.
        """
        import ray

        shared = ray.put(data)
        tasks = [(level, shared, options, checkpoints) for level in levels]
        return tuple(track(self._run(_recover, model, tasks), "recovery", len(tasks)))

    def _run(
        self, task: Callable[..., Any], model: Any, arguments: Sequence[tuple[Any, ...]]
    ) -> Iterator[Any]:
        return run_tasks(task, model, arguments, self.threads)


@contextmanager
def connect(address: str) -> Iterator[Cluster]:
    """The cluster at `address`; raises as `pliant.cluster.connected` does."""
    with connected(address) as cpus:
        threads = min(torch.get_num_threads(), *cpus)
        yield Cluster(threads, sum(count // threads for count in cpus))


def check_cluster(address: str | None) -> None:
    """Connects and leaves, so that a wrong address is found before hours of work."""
    if address is not None:
        with connect(address):
            pass


def _scores(
    threads: int, model: Any, score: Estimate, config: SourceConfig, windows: Sequence[Windows]
) -> list[UnitScores]:
    """Per window: their sum depends on its order, so it is taken in one place."""
    torch.set_num_threads(threads)
    return [score(model, config, [window]) for window in windows]


def _recover(
    threads: int,
    model: Any,
    level: Level,
    data: RecoveryData,
    options: RecoveryOptions,
    checkpoints: Path | None,
) -> RecoveredLevel:
    torch.set_num_threads(threads)
    (result,) = recover_levels(model, [level], data, options, checkpoints=checkpoints)
    return result
