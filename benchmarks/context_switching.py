"""What switching to another context costs: pliant against killing, swapping and paging.

Traces of calls that go from app to app, as people do: often back to one of the last, else by
popularity (Zipf). Managers share one engine and have the same memory. Contexts are killed and
computed again (LMK), swapped whole in f16, paged in f16 chunks (vLLM-S), in 8-bit chunks
(vLLM-SQ), saved and loaded as slots by llama.cpp, or kept by pliant. Storage is this machine's,
as measured, and emulated UFS, eMMC and SD. A model in the shape of Llama-3.2-1B with random
weights is made on the first run; `pocket` is run, too.

A cell is a model, a storage, a number of contexts and a budget. The JSON document is written after
each; `--resume` goes on where a run ended, `--only pocket eMMC` measures the cells that all of
these words are in.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from _llama_slots import measure_loading
from _report import Report, parser, print_table
from _switching import Chunks, Manager, Pliant, WholeContexts, Workload
from _synthetic import LLAMA_1B, LLAMA_QUICK, make_bundle
from pliant.bundle import Bundle, open_bundle
from pliant.contexts.codec import ChunkCodec
from pliant.contexts.costs import RestoreCosts, profile_costs
from pliant.contexts.identity import CHUNK_TOKENS
from pliant.contexts.measure_storage import measure_storage
from pliant.contexts.planner import StorageCost
from pliant.contexts.storage import StorageProfile
from pliant.engine.engine import Engine
from pliant.engine.options import EngineOptions
from pliant.engine.span import Span
from pliant.ggml.types import GgmlType

MODELS = Path(__file__).parent / ".models"
THREADS = 2
GROWTH = 32
REPEATS = 5
BUDGETS = (1 / 8, 1 / 4, 1 / 2)
EMULATED = {
    "UFS 3.1": StorageProfile(1.5e9, 100e-6),
    "eMMC": StorageProfile(200e6, 200e-6),
    "SD card": StorageProfile(40e6, 1e-3),
}
RECENT = 4
BASELINES = ("LMK", "whole swap", "vLLM-S", "vLLM-SQ", "llama.cpp slots")


@dataclass(frozen=True)
class Scale:
    """How much is measured of a model."""

    contexts: tuple[int, ...]
    lengths: tuple[int, ...]
    switches: int
    budgets: tuple[float, ...]
    storages: tuple[str, ...]


def trace(num_contexts: int, length: int, seed: int) -> list[int]:
    """Half of the calls go back to one of the last contexts, the others by Zipf's law."""
    rng = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, num_contexts + 1)
    popularity /= popularity.sum()
    calls: list[int] = []
    while len(calls) < length:
        recent = list(dict.fromkeys(calls[::-1]))[1 : RECENT + 1]
        if recent and rng.random() < 0.5:
            calls.append(int(rng.choice(recent)))
        else:
            calls.append(int(rng.choice(num_contexts, p=popularity)))
    return calls


@dataclass(frozen=True)
class Cell:
    """What is the same for all managers; `budget` is a share of the contexts' f16 size."""

    model: str
    storage: str
    contexts: int
    budget: float

    def matches(self, words: Sequence[str]) -> bool:
        text = f"{self.model} {self.storage} {self.contexts} 1/{round(1 / self.budget)}"
        return all(word in text for word in words)


class Bench:
    """One model: its engine, what recomputing and loading cost, and all cells."""

    def __init__(self, report: Report, name: str, bundle: Bundle, scale: Scale) -> None:
        self.report = report
        self.name = name
        self.scale = scale
        most = max(scale.lengths) + 8 * GROWTH
        self.context_length = min(most, bundle.architecture.context_length)
        slots = max(scale.contexts)
        options = EngineOptions(threads=THREADS, slots=slots, context_length=self.context_length)
        self.engine = Engine(bundle, options)
        self.costs = self._measure_costs()
        self.recompute = self._measure_recomputing()
        self.load = measure_loading(bundle.gguf.path, scale.lengths, self.context_length, THREADS)

    def run(self, cell: Cell, folder: Path) -> None:
        """Adds a row for each manager, and shows them."""
        profile = EMULATED.get(cell.storage) or measure_storage(folder)
        lengths = self._lengths(cell.contexts)
        calls = trace(cell.contexts, self.scale.switches, self.report.seed)
        budget = self._budget(cell, lengths, calls)
        found = {}
        for name, make in self._managers(profile, budget, folder):
            work = Workload(self.engine, dict(lengths), GROWTH)
            found[name] = _switch_times(make(work), work, calls)
        rows = [
            {
                **asdict(cell),
                "manager": name,
                "mean_ms": statistics.mean(times),
                "p50_ms": float(np.percentile(times, 50)),
                "p99_ms": float(np.percentile(times, 99)),
                "times_pliant": statistics.mean(times) / statistics.mean(found["pliant"]),
            }
            for name, times in found.items()
        ]
        self.report.results += rows
        shown = [{key: row[key] for key in list(row)[len(asdict(cell)) :]} for row in rows]
        title = f"{cell.model}, {cell.storage}, {cell.contexts} contexts, budget {cell.budget:g}"
        print_table(Console(stderr=True), title, shown)

    def close(self) -> None:
        self.engine.close()

    def _budget(self, cell: Cell, lengths: dict[int, int], calls: Sequence[int]) -> int:
        """Bytes: a share of the contexts as they are in the end, and room for one of them."""
        final = [
            min(self.context_length, length + GROWTH * calls.count(context))
            for context, length in lengths.items()
        ]
        share = cell.budget * self.engine.kv_bytes(sum(final))
        return int(max(share, 1.15 * self.engine.kv_bytes(max(final))))

    def _managers(
        self, profile: StorageProfile, budget: int, folder: Path
    ) -> Iterator[tuple[str, Callable[[Workload], Manager]]]:
        kv_bytes = self.engine.kv_bytes
        costs = replace(self.costs, storage=StorageCost.of(profile))

        def swap(length: int) -> float:
            read_ms = 1000 * profile.read_s(kv_bytes(length))
            return max(read_ms, self.decode[16](length))

        def load(length: int) -> float:
            return max(1000 * profile.read_s(kv_bytes(length)), self.load(length))

        yield "LMK", lambda work: WholeContexts(work, budget, self.recompute)
        yield "whole swap", lambda work: WholeContexts(work, budget, swap)
        yield "vLLM-S", lambda work: Chunks(work, budget, profile, 16, self.decode[16])
        yield "vLLM-SQ", lambda work: Chunks(work, budget, profile, 8, self.decode[8])
        yield "llama.cpp slots", lambda work: WholeContexts(work, budget, load)
        with tempfile.TemporaryDirectory(dir=folder) as store:
            yield "pliant", lambda work: Pliant(work, budget, profile, costs, Path(store))

    def _measure_costs(self) -> RestoreCosts:
        """What restoring takes; also what decoding takes the others, by length."""
        codec = ChunkCodec(self.engine)
        costs = profile_costs(self.engine, codec, 0, StorageProfile(1e9, 0.0), None)
        self.decode = {bits: self._measure_decoding(codec, bits) for bits in (16, 8)}
        codec.close()
        self.engine.release_slot(0)
        return costs

    def _measure_decoding(self, codec: ChunkCodec, bits: int) -> Callable[[int], float]:
        """Milliseconds to decode a context of a length, interpolated."""
        heads = [layer.kv_heads for layer in self.engine.bundle.levels[-1].plan.layers]
        chunk = codec.encode(0, 0, CHUNK_TOKENS, heads, bits)
        lengths, times = [0], [0.0]
        for length in (CHUNK_TOKENS, 4 * CHUNK_TOKENS, self.context_length):
            starts = range(0, length - CHUNK_TOKENS + 1, CHUNK_TOKENS)
            chunks = [(start, chunk) for start in starts]
            rounds = []
            for _ in range(REPEATS):
                begin = time.perf_counter()
                codec.decode(0, chunks, range(len(heads)), heads)
                rounds.append(1000 * (time.perf_counter() - begin))
            lengths.append(len(chunks) * CHUNK_TOKENS)
            times.append(min(rounds))
        return lambda length: float(np.interp(length, lengths, times))

    def _lengths(self, number: int) -> dict[int, int]:
        """Initial lengths, mixed over popular and rare contexts."""
        rng = np.random.default_rng(self.report.seed)
        return {c: int(rng.choice(self.scale.lengths)) for c in range(number)}

    def _measure_recomputing(self) -> Callable[[int], float]:
        """Milliseconds to compute a context of a length anew, interpolated."""
        level, most = self.engine.bundle.levels[-1], self.context_length
        tokens = [5 + i % 200 for i in range(most)]
        lengths, times = [0], [0.0]
        for start in range(0, most, 256):
            part = tokens[start : start + 256]
            begin = time.perf_counter()
            self.engine.forward(level, [Span(0, part, start, "none")])
            lengths.append(start + len(part))
            times.append(times[-1] + 1000 * (time.perf_counter() - begin))
        self.engine.release_slot(0)
        return lambda length: float(np.interp(length, lengths, times))


def _switch_times(manager: Manager, work: Workload, calls: Sequence[int]) -> list[float]:
    """Milliseconds of each switch of a trace."""
    times = []
    for context in calls:
        times.append(manager.switch(context))
        work.extend(context)
        manager.ended(context)
    if isinstance(manager, Pliant):
        peak, limit = manager.check()
        assert peak <= limit
    manager.close()
    return times


def claims(report: Report, model: str) -> None:
    """The goals, over all cells of a model."""
    cells: dict[tuple[str, int, float], dict[str, float]] = {}
    for row in report.results:
        if row["model"] == model:
            key = row["storage"], row["contexts"], row["budget"]
            cells.setdefault(key, {})[row["manager"]] = row["times_pliant"]
    if not cells:
        return
    paged = [cell["vLLM-S"] for cell in cells.values()]
    killed = [cell["LMK"] for cell in cells.values()]
    best = [min(cell[name] for name in BASELINES) for cell in cells.values()]
    report.at_least(f"{model}: vLLM-S / pliant, mean over cells", 9.7, statistics.mean(paged))
    report.at_least(f"{model}: vLLM-S / pliant, best cell", 20, max(paged))
    report.at_least(f"{model}: LMK / pliant, median cell", 100, statistics.median(killed))
    report.at_least(f"{model}: best baseline / pliant, worst cell", 1, min(best))


def plot(rows: list[dict[str, Any]], model: str, path: Path) -> None:
    """Mean switching latency by manager: a panel per storage, over the budgets."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    rows = [row for row in rows if row["model"] == model]
    storages = list(dict.fromkeys(row["storage"] for row in rows))
    figure, panels = pyplot.subplots(1, len(storages), sharey=True, squeeze=False, figsize=(10, 3))
    for panel, storage in zip(panels[0], storages, strict=True):
        for manager in (*BASELINES, "pliant"):
            chosen = [r for r in rows if (r["storage"], r["manager"]) == (storage, manager)]
            budgets = sorted({row["budget"] for row in chosen})
            means = [
                statistics.mean(row["mean_ms"] for row in chosen if row["budget"] == budget)
                for budget in budgets
            ]
            panel.plot(budgets, means, marker="o", label=manager)
        panel.set(title=storage, xlabel="memory / contexts' f16 size", yscale="log")
    panels[0][0].set_ylabel("mean switch, ms")
    panels[0][-1].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path)


def scales(quick: bool) -> dict[str, Scale]:
    """What is measured of each model."""
    every = ("this disk", *EMULATED)
    if quick:
        return {
            "pocket": Scale((12,), (128, 256, 512), 60, (1 / 4, 1 / 2), ("UFS 3.1", "SD card")),
            "1B shape": Scale((12,), (256, 512), 30, (1 / 4,), ("UFS 3.1", "eMMC")),
        }
    lengths = (256, 512, 1024, 2048, 3584)
    return {
        "pocket": Scale((8, 24, 64), (128, 256, 512), 200, BUDGETS, every),
        "1B shape": Scale((8, 24, 64), lengths, 100, BUDGETS, every),
    }


def measure(report: Report, options: Namespace, folder: Path) -> None:
    names = [field.name for field in fields(Cell)]
    done = {tuple(row[name] for name in names) for row in report.results}
    for name, scale in scales(options.quick).items():
        sizes = product(scale.storages, scale.contexts, scale.budgets)
        cells = [Cell(name, *size) for size in sizes]
        cells = [c for c in cells if c.matches(options.only) and astuple(c) not in done]
        if not cells:
            continue
        shape = LLAMA_QUICK if options.quick else LLAMA_1B
        bundle = (
            open_bundle(name) if name == "pocket" else make_bundle(MODELS, GgmlType.Q4_K, shape)
        )
        bench = Bench(report, name, bundle, scale)
        for cell in cells:
            bench.run(cell, folder)
            report.save(options.json)
        bench.close()


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--only", nargs="*", default=[], metavar="WORD")
    arguments.add_argument("--resume", action="store_true", help="keep the cells in --json FILE")
    arguments.add_argument("--plot", type=Path, metavar="FILE", help="draw the 1B shape's means")
    options = arguments.parse_args()
    report = Report("context_switching", options.seed, options.quick)
    if options.resume and options.json is None:
        arguments.error("--resume goes on with the cells in a file: give it as --json FILE")
    if options.resume and Path(options.json).exists():
        report.results += json.loads(Path(options.json).read_text())["results"]
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        measure(report, options, Path(folder))
    for name in scales(options.quick):
        claims(report, name)
    if options.plot is not None:
        plot(report.results, "1B shape", options.plot)
    report.finish(options.json)


if __name__ == "__main__":
    main()
