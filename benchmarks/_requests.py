"""The built-in model's requests: from the generator in models/pocket, and real ones."""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "models" / "pocket"))

from pocket.generate import TOP_LEVEL, evaluation_scenes, make_scene, training_conversations
from pocket.real_tasks import EVALUATION_SETS, real_scenes
from pocket.scene import APPS, Scene

__all__ = [
    "APPS",
    "EVALUATION_SETS",
    "TOP_LEVEL",
    "Scene",
    "evaluation_scenes",
    "make_scene",
    "real_scenes",
    "real_tasks",
    "training_conversations",
]


def real_tasks(data: Path, count: int, seed: int) -> dict[str, list[Scene]]:
    """Of each of EVALUATION_SETS in the folder `data` at most `count` requests, drawn from all
    over it, since the files are sorted by what is asked for.

    These are the sets that the built-in model was made for and never saw: what is asked for is in
    the prompt. Questions of knowledge (ARC, PIQA, ...) are none, they have nothing to shorten.
    """
    if not (data / "tasks").is_dir():
        sys.exit(f"--data {data}: no folder `tasks` in it; models/pocket/README.md says what it is")
    found = {name: real_scenes(data, name, count) for name in EVALUATION_SETS}
    return {
        name: random.Random(seed).sample(scenes, min(count, len(scenes)))
        for name, scenes in found.items()
    }
