"""pliant's engine against llama.cpp: speed at every size, switching, overhead, memory, busy cores.

A model in the shape of Llama-3.2-1B with random weights is made on the first run (in
benchmarks/.models, 3 GB for the three types). llama.cpp and pliant run alternately; speeds are
medians over rounds, ratios the median of the rounds' ratios.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from _report import Report, parser, read_bandwidth_gb_s
from _synthetic import LLAMA_1B, LLAMA_QUICK, make_bundle
from _workers import DEPTH, Task, Worker, llama_worker, pliant_worker, spin
from pliant.bundle import Bundle, open_bundle
from pliant.ggml.types import GgmlType

THREADS = 2
MODELS = Path(__file__).parent / ".models"
TYPES = (GgmlType.Q4_0, GgmlType.Q4_K, GgmlType.Q8_0)
COMMON_TYPE = GgmlType.Q4_0  # of the parts that are about one model
SPEED_UPS = {0.5: (1.9, 1.6), 0.25: (3.6, 2.8)}  # ratio: (prefill, decode) at least


class Bench:
    """Settings and the report; one method per claim."""

    def __init__(self, report: Report, rounds: int, steps: int, prompt: int) -> None:
        self.report = report
        self.rounds = rounds
        self.steps = steps
        self.prompt = prompt

    def speed(self, bundle: Bundle, type_: GgmlType) -> None:
        """Full level against llama.cpp, and every measured level against the full one."""
        model = bundle.gguf.path
        workers = {
            "pliant": Worker(pliant_worker, bundle.path, THREADS, "auto"),
            "llama.cpp": Worker(llama_worker, model, THREADS, True),
            "llama.cpp, not rearranged": Worker(llama_worker, model, THREADS, False),
        }
        levels = (1.0, *SPEED_UPS)
        runs = [("pliant", level) for level in levels]
        runs += [(name, 1.0) for name in workers if name != "pliant"]
        tasks = {"prefill": self.prompt, "decode": self.steps}
        rates: dict[tuple[str, float, str], list[float]] = {}
        for round_ in range(self.rounds + 1):
            for kind, count in tasks.items():
                for name, level in runs:
                    seconds, _ = workers[name].run(Task(kind, count, level))  # type: ignore[arg-type]
                    if round_:
                        rates.setdefault((name, level, kind), []).append(count / seconds)
        for worker in workers.values():
            worker.close()
        self._speed_rows(type_, bundle, runs, rates)
        self._speed_claims(type_, rates)

    def _speed_rows(self, type_, bundle, runs, rates) -> None:
        bandwidth = read_bandwidth_gb_s()
        size = bundle.gguf.path.stat().st_size / 1e9
        for name, level in runs:
            decode = statistics.median(rates[name, level, "decode"])
            read = size * bundle.level(level).cost
            self.report.row(
                type=type_.name,
                engine=name,
                level=level,
                prefill=statistics.median(rates[name, level, "prefill"]),
                decode=decode,
                share_of_read_bandwidth=decode * read / bandwidth,
            )

    def _speed_claims(self, type_, rates) -> None:
        for kind in ("prefill", "decode"):
            ratio = _median_ratio(rates["pliant", 1.0, kind], rates["llama.cpp", 1.0, kind])
            self.report.at_least(f"{type_.name} full level against llama.cpp, {kind}", 0.97, ratio)
        for level, goals in SPEED_UPS.items():
            for kind, goal in zip(("prefill", "decode"), goals, strict=True):
                ratio = _median_ratio(rates["pliant", level, kind], rates["pliant", 1.0, kind])
                self.report.at_least(
                    f"{type_.name} level {level} against full, {kind}", goal, ratio
                )

    def switching(self, bundle: Bundle) -> None:
        """Time to first token after a request at another level, and after one at the same."""
        worker = Worker(pliant_worker, bundle.path, THREADS, "auto")
        tokens = 64
        times: dict[bool, list[float]] = {True: [], False: []}
        for repeat in range(3 * self.rounds + 1):
            for switched in (True, False) if repeat % 2 else (False, True):
                worker.run(Task("prefill", tokens, 0.5 if switched else 1.0))
                seconds, _ = worker.run(Task("prefill", tokens, 1.0))
                if repeat:
                    times[switched].append(seconds)
        worker.close()
        ratio = statistics.median(times[True]) / statistics.median(times[False])
        self.report.at_most("time to first token after a switch against without", 1.01, ratio)

    def overhead(self, bundle: Bundle) -> None:
        """What Python adds to a cached decode step."""
        worker = Worker(pliant_worker, bundle.path, THREADS, "auto")
        worker.run(Task("decode", 8))
        outside = [worker.run(Task("decode", 32))[1] / 32 * 1e6 for _ in range(self.rounds)]
        worker.close()
        self.report.at_most("Python per decode step, microseconds", 150, statistics.median(outside))

    def memory(self, bundle: Bundle, type_: GgmlType) -> None:
        """Resident memory with every level used, against only the full one used."""
        resident = []
        for levels in ([1.0], [level.ratio for level in bundle.levels]):
            worker = Worker(pliant_worker, bundle.path, THREADS, "auto")
            for level in levels:
                worker.run(Task("prefill", self.prompt, level))
                worker.run(Task("decode", 4, level))
            resident.append(worker.run(Task("memory")))
            worker.close()
        alone, every = resident
        self.report.row(
            type=type_.name, resident_full_mib=alone >> 20, resident_all_mib=every >> 20
        )
        self.report.at_most(f"{type_.name} resident memory, all levels", 1.05, every / alone)

    def idle(self, bundle: Bundle) -> None:
        """What watching the load costs decoding when nothing else runs."""
        workers = {
            governed: Worker(pliant_worker, bundle.path, THREADS, "auto", governed)
            for governed in (True, False)
        }
        rates: dict[bool, list[float]] = {True: [], False: []}
        for round_ in range(4 * self.rounds + 1):
            for governed in (False, True) if round_ % 2 else (True, False):
                seconds, _ = workers[governed].run(Task("decode", self.steps))
                if round_:
                    rates[governed].append(self.steps / seconds)
        for worker in workers.values():
            worker.close()
        for governed, found in rates.items():
            name = "pliant" if governed else "pliant, load not watched"
            self.report.row(engine=name, decode=statistics.median(found))
        kept = _median_ratio(rates[True], rates[False])
        self.report.at_least("decode at idle against not watching the load", 0.98, kept)

    def busy(self, bundle: Bundle) -> None:
        """Decode while another process spins on one core."""
        workers = {
            "pliant": Worker(pliant_worker, bundle.path, THREADS, "auto"),
            "llama.cpp": Worker(llama_worker, bundle.gguf.path, THREADS, True),
        }
        rates: dict[tuple[str, bool], list[float]] = {}
        for loaded in (False, True):
            spinner = Worker(spin) if loaded else None
            time.sleep(0.5)
            for round_ in range(self.rounds + 1):
                for name, worker in workers.items():
                    steps = self.steps if name == "pliant" or not loaded else self.steps // 2
                    seconds, _ = worker.run(Task("decode", steps))
                    if round_:
                        rates.setdefault((name, loaded), []).append(steps / seconds)
            if spinner:
                spinner.kill()
        for worker in workers.values():
            worker.close()
        median = {key: statistics.median(values) for key, values in rates.items()}
        for (name, loaded), rate in median.items():
            self.report.row(engine=name, other_process_busy=loaded, decode=rate)
        kept = median["pliant", True] / median["pliant", False]
        against = median["pliant", True] / median["llama.cpp", True]
        self.report.at_least("decode beside a busy process against idle", 0.45, kept)
        self.report.at_least("decode beside a busy process against llama.cpp", 5, against)

    def pocket(self) -> None:
        """A decode step of the built-in model against llama.cpp on the same file."""
        bundle = open_bundle("pocket")
        ours = Worker(pliant_worker, bundle.path, THREADS, "auto")
        theirs = Worker(llama_worker, bundle.gguf.path, THREADS, True)
        steps = 64
        times: dict[str, list[float]] = {"pliant": [], "llama.cpp": []}
        for round_ in range(4 * self.rounds + 1):
            for name, worker in (("pliant", ours), ("llama.cpp", theirs)):
                seconds, _ = worker.run(Task("decode", steps))
                if round_:
                    times[name].append(seconds / steps)
        for worker in (ours, theirs):
            worker.close()
        for name, seconds in times.items():
            self.report.row(engine=name, model="pocket", step_us=statistics.median(seconds) * 1e6)
        ratio = _median_ratio(times["pliant"], times["llama.cpp"])
        self.report.at_most("pocket decode step against llama.cpp", 1.3, ratio)


def _median_ratio(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--types", nargs="*", default=[type_.name for type_ in TYPES])
    options.add_argument("--only", nargs="*", default=None, help="names of the parts to run")
    arguments = options.parse_args()
    report = Report("engine", seed=arguments.seed, quick=arguments.quick)
    quick = arguments.quick
    sizes = (
        {"rounds": 2, "steps": 8, "prompt": 128}
        if quick
        else {"rounds": 5, "steps": 32, "prompt": DEPTH}
    )
    bench = Bench(report, **sizes)
    shape = LLAMA_QUICK if quick else LLAMA_1B
    parts = arguments.only or ["speed", "memory", "switching", "overhead", "idle", "busy", "pocket"]
    for name in arguments.types:
        type_ = GgmlType[name]
        bundle = make_bundle(MODELS, type_, shape, arguments.seed)
        if "speed" in parts:
            bench.speed(bundle, type_)
        if "memory" in parts:
            bench.memory(bundle, type_)
    for part in ("switching", "overhead", "idle", "busy"):
        if part in parts:
            getattr(bench, part)(make_bundle(MODELS, COMMON_TYPE, shape, arguments.seed))
    if "pocket" in parts:
        bench.pocket()
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
