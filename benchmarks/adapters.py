"""What the levels' adapters cost: time at a level with its adapter against without, and memory.

The models are those of benchmarks/engine.py, with random adapters of rank 8 at every level below
1.0. With and without run alternately in one process; figures are medians of the rounds' ratios.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from _report import Report, parser
from _synthetic import LLAMA_1B, LLAMA_QUICK, make_adapted_bundle
from _workers import DEPTH, Task, Worker, pliant_worker
from pliant.bundle import Bundle
from pliant.engine.adapters import LevelAdapter
from pliant.ggml.types import GgmlType

THREADS = 2
RANK = 8
MODELS = Path(__file__).parent / ".models"
LEVELS = (0.25, 0.5, 0.9)
MOST_OVERHEAD = 1.08  # at level 0.5


class Bench:
    """Settings and the report; one method per claim."""

    def __init__(self, report: Report, rounds: int, steps: int, prompt: int) -> None:
        self.report = report
        self.rounds = rounds
        self.tasks = {"prefill": prompt, "decode": steps}

    def time(self, bundle: Bundle, type_: GgmlType) -> None:
        """Prefill and decode with the adapter against without."""
        worker = Worker(pliant_worker, bundle.path, THREADS, "auto")
        for level in LEVELS:
            for kind, count in self.tasks.items():
                ratios = []
                seconds: dict[bool, float] = {}
                for round_ in range(self.rounds + 1):
                    order = (True, False) if round_ % 2 else (False, True)
                    for is_bare in order:
                        task = Task(kind, count, level, is_bare)  # type: ignore[arg-type]
                        seconds[is_bare], _ = worker.run(task)
                    if round_:
                        ratios.append(seconds[False] / seconds[True])
                ratio = statistics.median(ratios)
                self.report.row(
                    type=type_.name, level=level, phase=kind, with_against_without=ratio
                )
                if level == 0.5:
                    name = f"{type_.name} level 0.5 with its adapter against without, {kind}"
                    self.report.at_most(name, MOST_OVERHEAD, ratio)
        worker.close()

    def memory(self, bundle: Bundle, type_: GgmlType) -> None:
        """Resident memory after every level ran, and what the files and one adapter take."""
        resident = {}
        for is_bare in (True, False):
            worker = Worker(pliant_worker, bundle.path, THREADS, "auto")
            for level in bundle.levels:
                worker.run(Task("prefill", self.tasks["prefill"], level.ratio, is_bare))
                worker.run(Task("decode", 2, level.ratio, is_bare))
            resident[is_bare] = worker.run(Task("memory"))
            worker.close()
        files = sum(adapter.gguf.size for adapter in bundle.adapters.values())
        self.report.row(
            type=type_.name,
            model_mib=bundle.gguf.size / 2**20,
            all_adapter_files_mib=files / 2**20,
            resident_without_mib=resident[True] / 2**20,
            resident_with_mib=resident[False] / 2**20,
        )

    def load(self, bundle: Bundle, type_: GgmlType) -> None:
        """What the first pass at a level waits for when its adapter is not in memory."""
        level = bundle.level(0.5)
        assert level.adapter is not None
        adapter = LevelAdapter(bundle.adapters[level.adapter], bundle.architecture, level.plan)
        times = []
        for _ in range(self.rounds):
            start = time.perf_counter()
            adapter.load()
            times.append(1000 * (time.perf_counter() - start))
            adapter.unload()
        self.report.row(
            type=type_.name,
            level=0.5,
            load_ms=statistics.median(times),
            loaded_mib=adapter.nbytes / 2**20,
        )
        adapter.close()


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--types", nargs="*", default=["Q4_0", "Q4_K"])
    options.add_argument("--only", nargs="*", default=["time", "memory", "load"])
    arguments = options.parse_args()
    report = Report("adapters", seed=arguments.seed, quick=arguments.quick)
    quick = arguments.quick
    sizes = (
        {"rounds": 3, "steps": 8, "prompt": 64}
        if quick
        else {
            "rounds": 9,
            "steps": 32,
            "prompt": DEPTH,
        }
    )
    bench = Bench(report, **sizes)
    shape = LLAMA_QUICK if quick else LLAMA_1B
    for name in arguments.types:
        type_ = GgmlType[name]
        bundle = make_adapted_bundle(MODELS, type_, shape, RANK)
        for part in arguments.only:
            getattr(bench, part)(bundle, type_)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
