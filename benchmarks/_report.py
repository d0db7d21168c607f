"""What every benchmark of this folder prints and writes: one table, one JSON document.

The document holds `benchmark`, `machine`, `versions`, `seed`, `command`, `quick`, `results`
(flat rows) and `claims` (rows of `name`, `goal`, `measured`, `met`), one claim for each figure
that the README states. Tables go to stderr when the JSON goes to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

PACKAGES = ("pliant", "llama-cpp-python", "numpy", "torch", "transformers", "gguf")
PIPED_WIDTH = 200  # a file or a pipe has no width of its own; rich would take 80 columns
BANDWIDTH_PROBE_BYTES = 256 << 20  # well beyond any last-level cache


@dataclass(frozen=True)
class Claim:
    """A stated figure: `goal` in words (">= 0.97"), `measured`, and whether it holds."""

    name: str
    goal: str
    measured: float | str
    met: bool


@dataclass
class Report:
    """Collects rows and claims of one benchmark, then shows and saves them.

    >>> report = Report("engine", seed=0)
    >>> report.row(case="decode", tokens_per_second=43.7)
    >>> report.at_least("decode speed against llama.cpp", 0.97, 1.01)
    >>> report.finish(json_path=None)
    """

    benchmark: str
    seed: int = 0
    quick: bool = False
    results: list[dict[str, Any]] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    def row(self, **columns: Any) -> None:
        """Adds one flat result row; values are numbers, strings, booleans or None.

        Rows with a column `part` are shown in a table for each part.
        """
        self.results.append(columns)

    def claim(self, name: str, goal: str, measured: float | str, met: bool) -> None:
        self.claims.append(Claim(name, goal, measured, met))

    def at_least(self, name: str, goal: float, measured: float) -> None:
        self.claim(name, f">= {goal:g}", measured, measured >= goal)

    def at_most(self, name: str, goal: float, measured: float) -> None:
        self.claim(name, f"<= {goal:g}", measured, measured <= goal)

    def document(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "machine": machine(),
            "versions": versions(),
            "seed": self.seed,
            "command": shlex.join(["python", *sys.argv]),
            "quick": self.quick,
            "results": self.results,
            "claims": [asdict(claim) for claim in self.claims],
        }

    def save(self, json_path: str | Path | None) -> None:
        """Writes what there is so far, if to a file: a run that is killed leaves that."""
        if json_path is not None and str(json_path) != "-":
            Path(json_path).write_text(json.dumps(self.document(), indent=2) + "\n")

    def finish(self, json_path: str | Path | None) -> None:
        """Prints the tables; writes the JSON document to `json_path` ("-" is stdout)."""
        to_stdout = str(json_path) == "-"
        console = Console(stderr=to_stdout)
        if not console.is_terminal:
            console = Console(stderr=to_stdout, width=PIPED_WIDTH)
        for part in dict.fromkeys(row.get("part") for row in self.results):
            rows = [row for row in self.results if row.get("part") == part]
            print_table(console, self.benchmark if part is None else part, rows)
        if self.claims:
            print_table(console, "claims", [asdict(claim) for claim in self.claims])
        if to_stdout:
            sys.stdout.write(json.dumps(self.document(), indent=2) + "\n")
        self.save(json_path)


def parser(description: str) -> argparse.ArgumentParser:
    """The options every benchmark has: `--quick`, `--json FILE`, `--seed N`."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--quick", action="store_true", help="the same claims in 60 seconds")
    options.add_argument("--json", metavar="FILE", help="write the JSON document here (- = stdout)")
    options.add_argument("--seed", type=int, default=0)
    return options


def print_table(console: Console, title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Prints rows under the union of their columns, in order of first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=title, title_justify="left")
    for name in columns:
        is_text = any(isinstance(row.get(name), str) for row in rows)
        table.add_column(name, justify="left" if is_text else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    console.print(table)


@cache
def machine() -> dict[str, Any]:
    """CPU name, usable cores, memory, and read bandwidth measured now over all of them."""
    import psutil

    return {
        "cpu": _cpu_name(),
        "architecture": platform.machine(),
        "cores": _cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "read_bandwidth_gb_s": round(read_bandwidth_gb_s(), 1),
        "system": f"{platform.system()} {platform.release()}",
        "device": "cpu",
    }


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Python's and each installed package's version."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_bandwidth_gb_s(rounds: int = 5) -> float:
    """Best of `rounds` timed reads of a large array, split over the usable cores (GB/s)."""
    data = np.ones(BANDWIDTH_PROBE_BYTES // 4, dtype=np.float32)
    parts = np.array_split(data, _cores())
    best_seconds = float("inf")
    with ThreadPoolExecutor(len(parts)) as threads:
        for _ in range(rounds):
            start = time.perf_counter()
            list(threads.map(np.max, parts))  # numpy's max releases the GIL and is vectorised
            best_seconds = min(best_seconds, time.perf_counter() - start)
    return data.nbytes / best_seconds / 1e9


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
