"""Makes the tiny language model (TLM) of the built-in model and puts it into its bundle.

    python models/pocket/train_tlm.py --out WORK [--bundle FOLDER] [--data DATA]

Score head: words of generated prompts, labelled by where the generator put the answer, and words
labelled by what the LLM's answers lose without them. Decision head: every level and prompt ratio
tried on the LLM. Everything is drawn as training draws it: entities and wordings of the evaluation
never occur. What is made lies in WORK; run it again to go on after an interruption.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pliant.bundle import Bundle, open_bundle
from pliant.tlm.labels.label import label_tasks
from pliant.tlm.labels.rows import PAIR_FILE, ScoreRow, write_rows
from pliant.tlm.segments import prompt_text
from pliant.tlm.training.build import Shape
from pliant.tlm.training.network import TinyNetwork
from pliant.tlm.training.options import TrainOptions
from pliant.tlm.training.pipeline import Recipe, train_tlm
from pocket.generate import TOP_LEVEL, make_scene
from pocket.kept_words import context_labels
from pocket.real_tasks import INTENT_LABELS
from pocket.scene import APPS, Scene
from pocket.sources import INTENT_SETS, IntentSet
from pocket.tlm_start import start_from

SHAPE = Shape(ff=128, window=512)
SCORE = TrainOptions(epochs=1, learning_rate=2e-3, train_trunk=True, dropout=0.0)
DECISION = TrainOptions(epochs=8, learning_rate=1e-3, soft_weight=1.0)
LEVELS = (1, 1, TOP_LEVEL)
"""Short screens teach finding as well as long ones, in half the time."""

REAL_SHARE = 0.5
"""Of the intent requests, where the converted sets are at hand."""


def scenes(seed: str, data: Path | None) -> Iterator[Scene]:
    """The apps in turn, one question each; with `data` some real intents among them."""
    rng = random.Random(seed)
    real = [IntentSet(data, name, held_out=False) for name in INTENT_SETS] if data else []
    while True:
        for app in APPS:
            if real and app == "intent" and rng.random() < REAL_SHARE:
                scene = rng.choice(real).scene(rng, rng.randint(*INTENT_LABELS), 1)
            else:
                scene = make_scene(app, rng, rng.choice(LEVELS), 1, held_out=False)
            if len(scene.turns[0].choices) > 1:
                yield scene


def generated_labels(count: int, data: Path | None) -> Iterator[ScoreRow]:
    for scene, _ in zip(scenes("tlm-score", data), range(count), strict=False):
        text = prompt_text(scene.prompt())
        first = text.index(scene.context)
        spans = ((first + a, first + b, keep) for a, b, keep in context_labels(scene))
        yield ScoreRow(text, tuple(spans))


def write_tasks(path: Path, seed: str, count: int, data: Path | None) -> Path:
    drawn = zip(scenes(seed, data), range(count), strict=False)
    rows = (scene.row("generated") for scene, _ in drawn)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="work folder")
    parser.add_argument("--bundle", default="pocket", help="name or folder; gets the TLM")
    parser.add_argument("--data", type=Path, help="folder of the converted sets")
    parser.add_argument("--generated", type=int, default=60_000, help="labelled by the generator")
    parser.add_argument("--saliency", type=int, default=100, help="labelled by the LLM")
    parser.add_argument("--decisions", type=int, default=500, help="to try every pair on")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    bundle = make(open_bundle(args.bundle), args)
    print(bundle.tlm_path)


def make(bundle: Bundle, args: argparse.Namespace) -> Bundle:
    """Two rounds: the prompts of decision labels are shortened by the trained score head."""
    recipe = Recipe(shape=SHAPE, score=SCORE, decision=DECISION)
    started = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {what}", file=sys.stderr, flush=True)

    def prepare(network: TinyNetwork) -> None:
        start_from(network, bundle)

    write_rows(args.out / PAIR_FILE, generated_labels(args.generated, args.data))
    if args.saliency:
        tasks = write_tasks(args.out / "saliency.jsonl", "tlm-saliency", args.saliency, args.data)
        label_tasks(bundle.path, tasks, args.out, "score")
        say("words labelled by the LLM")
    bundle = train_tlm(bundle.path, args.out, recipe, prepare=prepare, score_only=True)
    say("score head trained")
    tasks = write_tasks(args.out / "decisions.jsonl", "tlm-decision", args.decisions, args.data)
    label_tasks(bundle.path, tasks, args.out, "decision")
    say("every level and prompt ratio tried")
    bundle = train_tlm(bundle.path, args.out, recipe, prepare=prepare)
    say("decision head trained")
    return bundle


if __name__ == "__main__":
    main()
