"""What the generator makes: a context and questions about it, and their chat form."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

APPS = ("function", "app", "intent", "notification", "setting", "contact")

SYSTEM = {
    "function": "Choose the function for the request.",
    "app": "Choose the app for the request.",
    "intent": "Choose the intent of the request.",
    "notification": "Answer from the notifications.",
    "setting": "Answer from the settings.",
    "contact": "Answer from the contacts and messages.",
    "reading": "Answer from the text.",
}
"""System message of every task; ``reading`` is a training set, not an app."""

MAX_CONTEXT_CHARS = 1500
"""Keeps a prompt under 600 tokens."""

Message = dict[str, str]
Json = dict[str, object]


@dataclass(frozen=True)
class Turn:
    """A question, its answer and the choices the answer is scored against."""

    question: str
    answer: str
    choices: tuple[str, ...]

    @property
    def answer_index(self) -> int:
        return self.choices.index(self.answer)


@dataclass(frozen=True)
class Scene:
    """One screen with one or more turns about it."""

    app: str
    context: str
    turns: tuple[Turn, ...]

    def prompt(self) -> list[Message]:
        """System message and the first question after the context."""
        user = f"{self.context}\nRequest: {self.turns[0].question}"
        return [
            {"role": "system", "content": SYSTEM[self.app]},
            {"role": "user", "content": user},
        ]

    def conversation(self) -> list[Message]:
        """All turns, each answered; later questions refer to the same context."""
        messages = self.prompt()
        for i, turn in enumerate(self.turns):
            if i:
                messages.append({"role": "user", "content": f"Request: {turn.question}"})
            messages.append({"role": "assistant", "content": turn.answer})
        return messages

    def row(self, source: str) -> Json:
        """The first turn as an evaluation row."""
        turn = self.turns[0]
        return {
            "task": self.app, "app": self.app, "question": turn.question,
            "context": self.context, "choices": list(turn.choices),
            "answer_index": turn.answer_index, "answer": turn.answer,
            "messages": self.prompt(), "source": source,
        }  # fmt: skip


_OPENINGS = ("", "", "", "", "please ", "can you ", "could you ", "hey, ", "I want to ", "now ")
_ENDINGS = ("", "", "", "", ".", " please", "!", " now", " for me", " thanks")


def phrase(rng: random.Random, request: str) -> str:
    """A request as people put it: polite words, capitals and stops vary."""
    is_command = not request.startswith(
        ("I ", "is ", "what", "how", "who", "when", "where", "which", "will", "do ", "did", "my ")
    )
    opening = rng.choice(_OPENINGS) if is_command else ""
    ending = rng.choice(_ENDINGS) if is_command else rng.choice(("", "", "?", "?"))
    if opening in ("can you ", "could you ") and ending in ("", "."):
        ending = "?"
    text = opening + request + ending
    return text[0].upper() + text[1:] if rng.random() < 0.5 else text


def block(title: str, lines: Sequence[str]) -> str:
    """A titled block; entries start their line, so they tokenise as the answers do."""
    return "\n".join([f"{title}:", *lines])


def choose(rng: random.Random, answer: str, others: Sequence[str], count: int) -> tuple[str, ...]:
    """The answer among up to ``count`` different other strings, in random order."""
    pool = list(dict.fromkeys(o for o in others if o != answer))
    choices = [answer, *rng.sample(pool, min(count, len(pool)))]
    rng.shuffle(choices)
    return tuple(choices)
