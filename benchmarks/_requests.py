"""The built-in model's requests, from the generator in models/pocket."""

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
    "training_conversations",
]
