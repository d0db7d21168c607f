"""Kinds of notifications, settings and messages, with the questions they answer.

Templates name slots of :meth:`words.Draw.slots`.  In a question the slot after ``=>``
is the answer.  The last question of each kind is held out for evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass

from .catalogue import read_catalogue


@dataclass(frozen=True)
class Question:
    """A question template and the slot that answers it."""

    text: str
    slot: str


@dataclass(frozen=True)
class Notice:
    """A kind of notification."""

    kind: str
    texts: tuple[str, ...]
    questions: tuple[Question, ...]
    held_out_question: Question


@dataclass(frozen=True)
class Setting:
    """A setting: its name on the screen, other words for it, the kind of its value."""

    label: str
    synonyms: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Message:
    """A message and the questions whose answer is its sender."""

    text: str
    questions: tuple[str, ...]


def _notice(kind: list[str], texts: list[str], questions: list[str]) -> Notice:
    parsed = [Question(*q.split("=>")) for q in questions]
    return Notice(kind[0], tuple(texts), tuple(parsed[:-1]), parsed[-1])


NOTICES = tuple(_notice(*row) for row in read_catalogue("notices"))
SETTINGS = tuple(Setting(n[0], tuple(n[1:]), k[0]) for n, k in read_catalogue("settings"))
MESSAGES = tuple(Message(t[0], tuple(q)) for t, q in read_catalogue("messages"))
