"""Real requests for evaluation only, in the prompt format of the generator.

``octopus`` and ``llamatouch`` are never trained on; of the intent sets, only the rows
that training leaves out come here.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from . import sources
from .scene import Scene, Turn, block

EVALUATION_SETS = ("octopus", "llamatouch", "llamatouch_unnamed", "intent_real")
INTENT_LABELS = (5, 15)


def _turn(row: dict[str, object]) -> Turn:
    choices, index = row["choices"], row["answer_index"]
    assert isinstance(choices, list) and isinstance(index, int)
    return Turn(str(row["question"]), choices[index], tuple(choices))


def octopus_scenes(data: Path) -> list[Scene]:
    """21 functions with their short descriptions and one request each."""
    path = data / "tasks" / "octopus_functions.json"
    functions = json.loads(path.read_text(encoding="utf-8"))["functions"]
    described = {f["choice"]: f["short_description"] for f in functions}
    scenes = []
    for row in sources.read_rows(data, "octopus"):
        turn = _turn(row)
        lines = [f"{c}: {described[c]}" if described.get(c) else c for c in turn.choices]
        scenes.append(Scene("function", block("Functions", lines), (turn,)))
    return scenes


def llamatouch_scenes(data: Path, only_unnamed: bool = False) -> list[Scene]:
    """67 installed apps and one request; ``only_unnamed`` keeps those that name no app."""
    scenes = []
    for row in sources.read_rows(data, "llamatouch"):
        if not (only_unnamed and row.get("app_named_in_question")):
            turn = _turn(row)
            scenes.append(Scene("app", block("Apps", turn.choices), (turn,)))
    return scenes


def intent_scenes(data: Path, count: int, seed: int = 0) -> list[Scene]:
    """Utterances of the intent sets that training left out, 5 to 15 labels each."""
    rng = random.Random(seed)
    sets = [sources.IntentSet(data, name, held_out=True) for name in sources.INTENT_SETS]
    return [rng.choice(sets).scene(rng, rng.randint(*INTENT_LABELS), 1) for _ in range(count)]


def real_scenes(data: Path, name: str, count: int) -> list[Scene]:
    """Scenes of one of ``EVALUATION_SETS``; ``count`` bounds the drawn ones."""
    if name == "octopus":
        return octopus_scenes(data)
    if name == "intent_real":
        return intent_scenes(data, count)
    return llamatouch_scenes(data, only_unnamed=name == "llamatouch_unnamed")
