"""Random scenes of all six apps at one level of difficulty, from one seed."""

from __future__ import annotations

import random
from collections.abc import Callable

from .chat import Message
from .scene import APPS, Scene
from .screen_tasks import contact_scene, notification_scene, setting_scene
from .selection import app_scene, function_scene, intent_scene
from .words import Draw

TOP_LEVEL = 2
MIN_CONTEXT_CHARS = 150
"""Shorter contexts hold too little beside the point to be evaluated on."""

_MAKERS: dict[str, Callable[[Draw, int, int], Scene]] = {
    "function": function_scene,
    "app": app_scene,
    "intent": intent_scene,
    "notification": notification_scene,
    "setting": setting_scene,
    "contact": contact_scene,
}


def make_scene(app: str, rng: random.Random, level: int, num_turns: int, held_out: bool) -> Scene:
    """One scene; ``held_out`` draws entities and wordings that training never shows."""
    return _MAKERS[app](Draw(rng, held_out), level, num_turns)


def evaluation_scenes(app: str, count: int, seed: int = 0) -> list[Scene]:
    """Different held-out scenes of one app; the same seed gives the same scenes."""
    rng = random.Random(f"pocket-eval-{app}-{seed}")
    found: dict[str, Scene] = {}
    while len(found) < count:
        scene = make_scene(app, rng, TOP_LEVEL, 1, held_out=True)
        if len(scene.turns[0].choices) > 1 and len(scene.context) >= MIN_CONTEXT_CHARS:
            found.setdefault(scene.context, scene)
    return list(found.values())


def training_conversations(count: int, seed: int = 0) -> list[list[Message]]:
    """What the model is trained on: the apps in turn, two to six requests about one context."""
    rng = random.Random(f"pocket-training-{seed}")
    return [
        make_scene(
            APPS[index % len(APPS)],
            rng,
            rng.randint(1, TOP_LEVEL),
            rng.randint(2, 6),
            held_out=False,
        ).conversation()
        for index in range(count)
    ]
