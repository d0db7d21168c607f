"""Catalogue of phone functions: names, descriptions and requests, with slots in braces.

A line of ``catalogue/functions.txt`` is ``names | descriptions | requests``.  A line that
starts with ``*`` is a held-out function, seen in evaluation only; of every other line the
last request is held out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .catalogue import read_catalogue
from .words import ADJECTIVES, NOUNS, VERBS


@dataclass(frozen=True)
class Function:
    """One function of the phone under all its names."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    requests: tuple[str, ...]
    held_out_request: str
    is_held_out: bool


def _parse(line: list[list[str]]) -> Function:
    names, descriptions, requests = line
    is_held_out = names[0].startswith("*")
    names[0] = names[0].lstrip("* ")
    seen = requests if is_held_out else requests[:-1]
    return Function(tuple(names), tuple(descriptions), tuple(seen), requests[-1], is_held_out)


def imperative(description: str) -> str:
    """``Takes a photo.`` as a request: ``take a photo``."""
    verb, _, rest = description.rstrip(".").partition(" ")
    is_sibilant = verb.endswith(("ches", "shes", "sses"))
    return f"{verb[: -2 if is_sibilant else -1].lower()} {rest}"


def invented_functions(rng: random.Random, count: int) -> list[Function]:
    """Functions that share verbs and nouns, so that only both words together tell them apart."""
    verbs, nouns = rng.sample(VERBS, min(8, count)), rng.sample(NOUNS, min(8, count))
    pairs = rng.sample([(v, n) for v in verbs for n in nouns], count)
    return [_invented(v, n, rng.choice(ADJECTIVES)) for v, n in pairs]


def _invented(verb: str, noun: str, adjective: str) -> Function:
    names = (f"{verb} {noun}", f"{noun} {verb}", f"{verb} the {noun}")
    descriptions = (
        f"{verb.capitalize()}s the {noun}.",
        f"{verb.capitalize()}s a {adjective} {noun} at home.",
        f"Lets you {verb} any {noun}.",
    )
    requests = (
        f"{verb} the {noun}",
        f"{verb} my {adjective} {noun}",
        f"I would like the {noun} to be {verb}ed",
        f"my {noun} must be {verb}ed on {{day}}",
        f"{verb} a {noun} for {{name}}",
    )
    return Function(names, descriptions, requests, requests[-1], is_held_out=False)


FUNCTIONS = tuple(_parse(line) for line in read_catalogue("functions"))
