"""Scenes of the tasks that choose from a list: ``function``, ``app`` and ``intent``."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .apps import CATEGORIES, Category
from .functions import FUNCTIONS, Function, imperative, invented_functions
from .scene import Scene, Turn, block, phrase
from .screen_tasks import with_clutter
from .words import INVENTED_SHARE, Draw, invented_brand

LIST_SIZES = ((3, 5), (5, 10), (8, 22))
"""Fewest and most entries of a list at each level of difficulty."""

_OPEN = ("open {}", "start {}", "launch the {} app", "go to {}")
_APP_LAST = ("{r} on {a}", "{r} in {a}", "{r} on the {a} app", "{r} with {a}", "{r} using {a}")
_APP_FIRST = ("open {a} and {r}", "Open {a}, {r}.", "In {a}, {r}", "use {a} to {r}")

_NOTHING_FITS = ("irrelevant request", "no function fits", "none of these", "unknown request")


def _list_size(rng: random.Random, level: int) -> int:
    return rng.randint(*LIST_SIZES[level])


def _fill(draw: Draw, template: str) -> str:
    return phrase(draw.rng, template.format(**draw.slots()))


def _style(rng: random.Random, names: Sequence[str]) -> list[str]:
    kind = rng.random()
    if kind < 0.7:
        return list(names)
    if kind < 0.85:
        return [n.replace(" ", "_") for n in names]
    return [n.capitalize() for n in names]


def _function_request(draw: Draw, function: Function) -> str:
    if draw.held_out:
        return _fill(draw, function.held_out_request)
    kind = draw.rng.random()
    if kind < 0.15:
        return _fill(draw, imperative(draw.rng.choice(function.descriptions)))
    if kind < 0.25:
        return _fill(draw, draw.rng.choice(function.names))
    return _fill(draw, draw.rng.choice(function.requests))


def _pick_functions(draw: Draw, count: int) -> list[Function]:
    """Different functions; evaluation mixes seen and held-out ones, training made-up ones."""
    pool = [f for f in FUNCTIONS if draw.held_out or not f.is_held_out]
    num_invented = 0
    if not draw.held_out and draw.rng.random() < INVENTED_SHARE:
        num_invented = draw.rng.choice((count, count // 2))
    functions = draw.rng.sample(pool, min(count - num_invented, len(pool)))
    functions += invented_functions(draw.rng, num_invented)
    draw.rng.shuffle(functions)
    return functions


def function_scene(draw: Draw, level: int, num_turns: int) -> Scene:
    """Functions with or without descriptions; sometimes none of them fits."""
    rng = draw.rng
    functions = _pick_functions(draw, _list_size(rng, level))
    if rng.random() < 0.7:
        functions = functions if rng.random() < 0.25 else functions[:12]
        texts = [f"{{name}}: {rng.choice(f.descriptions)}" for f in functions]
    else:
        texts = ["{name}"] * len(functions)
    names = _style(rng, [rng.choice(f.names) for f in functions])
    lines = [t.format(name=n) for t, n in zip(texts, names, strict=True)]
    asked = [(n, f) for n, f in zip(names, functions, strict=True)]
    if rng.random() < 0.2:
        nothing = _style(rng, [rng.choice(_NOTHING_FITS)])[0]
        absent = [f for f in _pick_functions(draw, 8) if f not in functions][:1]
        asked += [(nothing, f) for f in absent]
        names.append(nothing)
        lines.insert(rng.randint(0, len(lines)), nothing)
    rng.shuffle(asked)
    turns = tuple(
        Turn(_function_request(draw, f), name, tuple(names)) for name, f in asked[:num_turns]
    )
    return Scene("function", with_clutter(draw, level, block("Functions", lines)), turns)


def _app_request(draw: Draw, category: Category, app: str) -> str:
    request = category.held_out_request if draw.held_out else draw.rng.choice(category.requests)
    request = request.format(**draw.slots())
    is_known = app in category.apps + category.held_out_apps
    kind = draw.rng.random() if is_known else draw.rng.uniform(0.5, 1.0)
    if kind < 0.5:
        return phrase(draw.rng, request)
    if kind < 0.6:
        return phrase(draw.rng, draw.rng.choice(_OPEN).format(app))
    if kind < 0.9:
        return phrase(draw.rng, draw.rng.choice(_APP_LAST).format(r=request, a=app))
    return draw.rng.choice(_APP_FIRST).format(r=request, a=app)


def _app_of(draw: Draw, category: Category) -> str:
    if draw.held_out and draw.rng.random() < 0.5:
        return draw.rng.choice(category.held_out_apps)
    if not draw.held_out and draw.rng.random() < INVENTED_SHARE / 2:
        return invented_brand(draw.rng)
    return draw.rng.choice(category.apps)


def app_scene(draw: Draw, level: int, num_turns: int) -> Scene:
    """Installed apps, one of each category, so that a request has one right app.

    In training some have made-up names; their requests name them.
    """
    rng = draw.rng
    size = _list_size(rng, level) + (rng.choice((0, 0, 0, 10, 25)) if level == 2 else level * 3)
    categories = rng.sample(CATEGORIES, min(size, len(CATEGORIES)))
    by_app = {_app_of(draw, c): c for c in categories}
    apps = list(by_app)
    asked = [(category, app) for app, category in by_app.items()]
    rng.shuffle(asked)
    listing = block("Apps", apps)
    turns = tuple(Turn(_app_request(draw, c, a), a, tuple(apps)) for c, a in asked[:num_turns])
    return Scene("app", with_clutter(draw, level, listing), turns)


def intent_scene(draw: Draw, level: int, num_turns: int) -> Scene:
    """Names of functions as labels, without descriptions, and a request in lower case."""
    rng = draw.rng
    size = min(15, _list_size(rng, level))
    functions = _pick_functions(draw, size)
    labels = _style(rng, [rng.choice(f.names) for f in functions])
    requests = [_function_request(draw, f) for f in functions]
    turns = [Turn(r.lower(), n, tuple(labels)) for r, n in zip(requests, labels, strict=True)]
    rng.shuffle(turns)
    listing = block("Intents", labels)
    return Scene("intent", with_clutter(draw, level, listing), tuple(turns[:num_turns]))
