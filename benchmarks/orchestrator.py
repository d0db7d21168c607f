"""What the SLO orchestrator is worth: right answers within six SLOs, and SLOs that are met.

Two parts. `accuracy` compares, on held-out requests of the generator (and with --data on real
ones), the orchestrator with a service that can only change the level, one that can only shorten
the prompt, a random feasible pair, and an oracle that knows which feasible pair answers right. It
takes latencies from the levels' costs, so its figures are those of the weights alone. `timed`
answers requests one after the other, alone and with a core taken by another program from the
middle of the run, and counts the SLOs that are met, from arrival, decision included.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from _attainment import attainment
from _policies import POLICIES, accuracy
from _report import Report, parser
from _requests import APPS, Scene, evaluation_scenes, real_tasks
from pliant.cli.demo_requests import APPS as APP_SLOS
from pliant.engine.model import ElasticModel, load
from pliant.slo import open_orchestrator
from pliant.tlm.model import TinyModel

ROWS, QUICK_ROWS = 32, 1
REQUESTS, QUICK_REQUESTS = 300, 40
ORACLE_POINTS = 3.0
TLM_SHARE = 0.15


def measure_accuracy(
    model: ElasticModel, tlm: TinyModel, scenes: Sequence[Scene], report: Report
) -> None:
    slos = {str(slo): slo for slo in APP_SLOS.values()}
    for row in accuracy(model, tlm, scenes, slos):
        report.row(**row)
    means = {
        policy: mean(
            row["accuracy_in_slo"]
            for row in report.results
            if row.get("part") == "accuracy" and row["policy"] == policy
        )
        for policy in POLICIES
    }
    for policy, in_slo in means.items():
        report.row(part="accuracy", slo="mean of six", policy=policy, accuracy_in_slo=in_slo)
    served = means["orchestrated"]
    for policy in ("model only", "prompt only", "random feasible"):
        report.at_least(f"points right within the SLO above {policy}", 0.0, served - means[policy])
    report.at_most("points below the oracle", ORACLE_POINTS, means["oracle"] - served)


def measure_attainment(
    model: ElasticModel, scenes: Sequence[Scene], count: int, report: Report
) -> None:
    rows = attainment(lambda: open_orchestrator(model), scenes, count)
    for row in rows:
        report.row(**row)
    by_run: dict[str, dict[str, Any]] = {r["run"]: r for r in rows if r["part"] == "timed"}
    idle, taken = by_run["idle"], by_run["a core taken from the middle"]
    report.at_least("SLOs met of those feasible, idle", 0.99, idle["attainment"])
    report.at_least("SLOs met of those feasible, a core taken", 0.95, taken["attainment"])
    if idle["tlm_share"]:
        report.at_most("TLM's share of the full model's TTFT", TLM_SHARE, idle["tlm_share"])


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--bundle", default="pocket")
    options.add_argument("--data", type=Path, help="folder with the real requests")
    options.add_argument("--rows", type=int, help="requests per task of the accuracy part")
    options.add_argument("--requests", type=int, help="requests per run of the timed part")
    options.add_argument("--part", choices=("accuracy", "timed", "both"), default="both")
    arguments = options.parse_args()
    report = Report("orchestrator", seed=arguments.seed, quick=arguments.quick)
    count = arguments.rows or (QUICK_ROWS if arguments.quick else ROWS)
    requests = arguments.requests or (QUICK_REQUESTS if arguments.quick else REQUESTS)
    with load(arguments.bundle) as model:
        tlm_path = model.bundle.tlm_path
        if arguments.part != "timed":
            if tlm_path is None:
                sys.exit(f"{model.bundle.name} has no TLM: try --part timed, where levels differ")
            scenes = [s for app in APPS for s in evaluation_scenes(app, count, arguments.seed)]
            if arguments.data:
                tasks = real_tasks(arguments.data, count, arguments.seed)
                scenes += [scene for name in tasks for scene in tasks[name]]
            with TinyModel(tlm_path, threads=model.engine.threads) as tlm:
                measure_accuracy(model, tlm, scenes, report)
        if arguments.part != "accuracy":
            scenes = [s for app in APPS for s in evaluation_scenes(app, 30, arguments.seed + 1)]
            random.Random(arguments.seed).shuffle(scenes)
            measure_attainment(model, scenes, requests, report)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
