"""Word lists of the generator: people, places, things, times.

Names, things, topics, places, cities and songs are split by :func:`split` into a training
part and a held-out part that only evaluation rows use.  Closed lists (days, rooms,
languages) are whole on both sides.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from .catalogue import read_catalogue

HELD_OUT_STEP = 6
"""One entry of this many is held out."""

_LISTS = {name[0]: tuple(entries) for name, entries in read_catalogue("words")}

FIRST_NAMES = _LISTS["first names"]
LAST_NAMES = _LISTS["last names"]
RELATIONS = _LISTS["relations"]
ITEMS = _LISTS["items"]
SHOPS = _LISTS["shops"]
TOPICS = _LISTS["topics"]
PLACES = _LISTS["places"]
CITIES = _LISTS["cities"]
STREETS = _LISTS["streets"]
FOODS = _LISTS["foods"]
SONGS = _LISTS["songs"]
GENRES = _LISTS["genres"]
TEAMS = _LISTS["teams"]
WIFI = _LISTS["wifi"]
DEVICES = _LISTS["devices"]
ROOMS = _LISTS["rooms"]
DAYS = _LISTS["days"]
LANGUAGES = _LISTS["languages"]
WEATHER = _LISTS["weather"]


def split(entries: Sequence[str], held_out: bool) -> list[str]:
    """The held-out or the training part of a list, by position; never empty."""
    return [e for i, e in enumerate(entries) if (i % HELD_OUT_STEP == 1) == held_out]


class Draw:
    """Random entities from one side of the split, all from one generator."""

    def __init__(self, rng: random.Random, held_out: bool) -> None:
        self.rng = rng
        self.held_out = held_out

    def one(self, entries: Sequence[str]) -> str:
        """An entry of a split list from this side."""
        return self.rng.choice(split(entries, self.held_out))

    def some(self, entries: Sequence[str], count: int) -> list[str]:
        """Up to ``count`` different entries."""
        part = split(entries, self.held_out)
        return self.rng.sample(part, min(count, len(part)))

    def name(self) -> str:
        first = self.one(FIRST_NAMES)
        return f"{first} {self.one(LAST_NAMES)}" if self.rng.random() < 0.25 else first

    def names(self, count: int) -> list[str]:
        """Different people; no two share a first name."""
        return [
            f"{first} {self.one(LAST_NAMES)}" if self.rng.random() < 0.25 else first
            for first in self.some(FIRST_NAMES, count)
        ]

    def time(self) -> str:
        minute = self.rng.choice((0, 0, 15, 30, 30, 45, self.rng.randrange(60)))
        if self.rng.random() < 0.5:
            return f"{self.rng.randint(1, 12)}:{minute:02d} {self.rng.choice(('AM', 'PM'))}"
        return f"{self.rng.randint(0, 23)}:{minute:02d}"

    def amount(self) -> str:
        return f"${self.rng.randint(2, 480)}.{self.rng.randrange(100):02d}"

    def percent(self) -> str:
        return f"{self.rng.randint(1, 20) * 5}%"

    def number(self, low: int, high: int) -> str:
        return str(self.rng.randint(low, high))

    def phone(self) -> str:
        return f"555-{self.rng.randint(0, 9999):04d}"

    def slots(self) -> dict[str, str]:
        """One value for every slot that a template may name."""
        rng = self.rng
        home, away = rng.sample(TEAMS, 2)
        return {
            "name": self.name(), "item": self.one(ITEMS), "shop": rng.choice(SHOPS),
            "topic": self.one(TOPICS), "place": self.one(PLACES), "city": self.one(CITIES),
            "street": f"{rng.randint(1, 120)} {rng.choice(STREETS)} Street",
            "food": rng.choice(FOODS), "song": self.one(SONGS), "genre": rng.choice(GENRES),
            "home": home, "away": away, "wifi": rng.choice(WIFI), "device": rng.choice(DEVICES),
            "room": rng.choice(ROOMS), "day": rng.choice(DAYS), "lang": rng.choice(LANGUAGES),
            "weather": rng.choice(WEATHER), "time": self.time(), "amount": self.amount(),
            "percent": self.percent(), "n": self.number(2, 60), "phone": self.phone(),
            "relation": rng.choice(RELATIONS), "degrees": self.number(-5, 38),
            "code": f"{rng.randint(1000, 999999)}",
            "gate": f"{rng.choice('ABCDEF')}{rng.randint(1, 60)}",
            "flight": f"{rng.choice(('LX', 'QF', 'BA', 'TK', 'UA', 'SK'))}{rng.randint(10, 999)}",
            "steps": f"{rng.randint(1, 19)},{rng.randrange(1000):03d}",
            "score": f"{rng.randint(0, 6)}-{rng.randint(0, 6)}",
        }  # fmt: skip
