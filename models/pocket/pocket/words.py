"""Word lists of the generator: people, places, things, times.

Open lists (names, things, places, shops, songs) are split by :func:`split` into a training
part and a held-out part that only evaluation rows use; in training, half of such entities
are made up on the spot.  Closed lists (days, rooms, languages) are whole on both sides.
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
ADJECTIVES = _LISTS["adjectives"]
NOUNS = _LISTS["nouns"]
VERBS = _LISTS["verbs"]

INVENTED_SHARE = 0.5
"""Share of training entities that are made up: a closed list would be learnt by heart."""

_ONSETS = [
    "b",
    "br",
    "c",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "sh",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
]
_VOWELS = "aeiou"
_ENDINGS = ("", "", "", "n", "r", "s", "l", "x", "th", "ck", "ndo", "ley", "ra", "mi")


def invented_word(rng: random.Random) -> str:
    """A capitalised word of two or three syllables that no list holds."""
    syllables = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(2)]
    return ("".join(syllables) + rng.choice(_ENDINGS)).capitalize()


def invented_thing(rng: random.Random) -> str:
    """A noun, mostly with an adjective."""
    noun = rng.choice(NOUNS)
    return f"{rng.choice(ADJECTIVES)} {noun}" if rng.random() < 0.7 else noun


def invented_brand(rng: random.Random) -> str:
    """What a shop, song, app or network may be called."""
    kind = rng.random()
    if kind < 0.5:
        return invented_thing(rng).title()
    return invented_word(rng) if kind < 0.8 else f"{invented_word(rng)} {rng.choice(NOUNS).title()}"


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

    def _is_invented(self) -> bool:
        return not self.held_out and self.rng.random() < INVENTED_SHARE

    def first_name(self) -> str:
        return invented_word(self.rng) if self._is_invented() else self.one(FIRST_NAMES)

    def thing(self, entries: Sequence[str]) -> str:
        """Something written in lower case, from the list or made up."""
        return invented_thing(self.rng) if self._is_invented() else self.one(entries)

    def brand(self, entries: Sequence[str]) -> str:
        """Something written as a name, from the list or made up."""
        return invented_brand(self.rng) if self._is_invented() else self.one(entries)

    def some(self, entries: Sequence[str], count: int) -> list[str]:
        """Up to ``count`` different entries."""
        part = split(entries, self.held_out)
        return self.rng.sample(part, min(count, len(part)))

    def name(self) -> str:
        return self._with_last_name(self.first_name())

    def _with_last_name(self, first: str) -> str:
        return f"{first} {self.one(LAST_NAMES)}" if self.rng.random() < 0.25 else first

    def names(self, count: int) -> list[str]:
        """Different people; no two share a first name."""
        listed = self.some(FIRST_NAMES, count)
        firsts = [invented_word(self.rng) if self._is_invented() else n for n in listed]
        return [self._with_last_name(first) for first in dict.fromkeys(firsts)]

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
            "name": self.name(), "item": self.thing(ITEMS), "shop": self.brand(SHOPS),
            "topic": self.thing(TOPICS), "place": self.thing(PLACES), "city": self.brand(CITIES),
            "street": f"{rng.randint(1, 120)} {rng.choice(STREETS)} Street",
            "food": self.thing(FOODS), "song": self.brand(SONGS), "genre": rng.choice(GENRES),
            "home": home, "away": away, "wifi": self.brand(WIFI), "device": self.brand(DEVICES),
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
