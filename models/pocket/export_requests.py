"""Writes the requests of the six apps as JSON lines, for demonstrations and measurements.

``demo.jsonl`` (a few of each app), ``eval.jsonl`` (many, held out), ``calibration.jsonl``
(conversations as in training), ``recovery.jsonl`` (others, for adapters); with ``--data`` also
``eval-NAME.jsonl`` of the real sets.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pocket.generate import evaluation_scenes, training_conversations
from pocket.real_tasks import EVALUATION_SETS, real_scenes
from pocket.scene import APPS

DEMO_SEED = 7
DEMO_FIELDS = ("app", "messages", "choices", "answer", "answer_index")


def write_lines(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def demo_rows(per_app: int) -> list[dict[str, object]]:
    """The apps in turn, as requests of several apps arrive on a phone."""
    by_app = [evaluation_scenes(app, per_app, DEMO_SEED) for app in APPS]
    rows = [scene.row("demo") for turn in zip(*by_app, strict=True) for scene in turn]
    return [{field: row[field] for field in DEMO_FIELDS} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of the converted sets")
    parser.add_argument("--count", type=int, default=256, help="rows per app in eval.jsonl")
    parser.add_argument("--demo-count", type=int, default=6, help="rows per app in demo.jsonl")
    parser.add_argument("--calibration-count", type=int, default=256)
    parser.add_argument("--recovery-count", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    source = f"pocket generator, held out, seed {args.seed}"
    scenes = [s for app in APPS for s in evaluation_scenes(app, args.count, args.seed)]
    write_lines(args.out / "eval.jsonl", (s.row(source) for s in scenes))
    write_lines(args.out / "demo.jsonl", demo_rows(args.demo_count))
    for name, count, seed in (
        ("calibration", args.calibration_count, args.seed),
        ("recovery", args.recovery_count, args.seed + 1),
    ):
        conversations = training_conversations(count, seed)
        write_lines(args.out / f"{name}.jsonl", ({"messages": one} for one in conversations))
    if args.data is not None:
        for name in EVALUATION_SETS:
            rows = (s.row(name) for s in real_scenes(args.data, name, args.count))
            write_lines(args.out / f"eval-{name}.jsonl", rows)


if __name__ == "__main__":
    main()
