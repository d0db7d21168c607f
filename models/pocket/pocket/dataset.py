"""Training documents as flat arrays on disk: tokens, loss classes, offsets, levels."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from . import sources
from .chat import END
from .generate import make_scene
from .scene import APPS, Scene

CONTEXT, ANSWER, TEXT = 0, 1, 2
"""Loss classes: what a prompt says, what the assistant says, running text."""

TOKENS_PER_LEVEL = (5_000_000, 8_000_000, 13_000_000)
MAX_DOCUMENT_TOKENS = (256, 512, 1024)
MIXTURE = {
    "function": 0.13, "app": 0.10, "intent": 0.16, "notification": 0.22, "setting": 0.07,
    "contact": 0.26, "reading": 0.01, "prose": 0.03, "dialogue": 0.02,
}  # fmt: skip
"""Share of documents; the tasks that are learnt last have most."""

REAL_INTENT_SHARE = 0.7
_TEXT_CHARS = ((400, 700), (700, 1200), (900, 3600))
"""Shortest and longest passage of running text at each level."""

Piece = tuple[str, int]
"""Text and its loss class; control tokens are part of the text."""


def pieces_of(scene: Scene) -> list[Piece]:
    """A conversation cut where its loss class changes."""
    pieces: list[Piece] = []
    for message in scene.conversation():
        opening = f"<|{message['role']}|>"
        if message["role"] == "assistant":
            pieces += [(opening, CONTEXT), (message["content"] + END, ANSWER)]
        else:
            pieces.append((opening + message["content"] + END, CONTEXT))
    return pieces


class DocumentSource:
    """Endless random training documents of a level, the generator's and the public sets'."""

    def __init__(self, data: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.intents = [sources.IntentSet(data, n, held_out=False) for n in sources.INTENT_SETS]
        self.intent_weights = [len(s) ** 0.7 for s in self.intents]
        self.reading = sources.reading_scenes(data)
        self.text = {"prose": list(sources.prose(data)), "dialogue": list(sources.dialogues(data))}

    def _intent_scene(self, level: int, num_turns: int) -> Scene:
        chosen = self.rng.choices(self.intents, self.intent_weights)[0]
        num_labels = self.rng.randint(*((3, 6), (5, 10), (5, 15))[level])
        return chosen.scene(self.rng, num_labels, num_turns)

    def _passage(self, kind: str, level: int) -> list[Piece]:
        document = self.rng.choice(self.text[kind])
        length = self.rng.randint(*_TEXT_CHARS[level])
        start = self.rng.randrange(max(1, len(document) - length))
        return [(END + document[start : start + length], TEXT)]

    def draw(self, level: int) -> list[Piece]:
        kind = self.rng.choices(list(MIXTURE), list(MIXTURE.values()))[0]
        num_turns = self.rng.randint(2, 8)
        if kind in self.text:
            return self._passage(kind, level)
        if kind == "reading":
            return pieces_of(self.rng.choice(self.reading))
        if kind == "intent" and self.rng.random() < REAL_INTENT_SHARE:
            return pieces_of(self._intent_scene(level, num_turns))
        assert kind in APPS, kind
        return pieces_of(make_scene(kind, self.rng, level, num_turns, held_out=False))

    def sample_texts(self, count: int) -> Iterator[str]:
        """Documents as plain text, to train the tokeniser on."""
        for i in range(count):
            yield "".join(text for text, _ in self.draw(i % 3))


Encoded = tuple[list[int], list[int]]


def encode_batch(tokenizer: Tokenizer, documents: list[list[Piece]]) -> list[Encoded]:
    """Token ids and loss classes of each document."""
    flat = [piece for document in documents for piece in document]
    encoded = iter(tokenizer.encode_batch_fast([text for text, _ in flat]))
    result = []
    for document in documents:
        ids: list[int] = []
        classes: list[int] = []
        for _, loss_class in document:
            piece_ids = next(encoded).ids
            ids += piece_ids
            classes += [loss_class] * len(piece_ids)
        result.append((ids, classes))
    return result


@dataclass(frozen=True)
class Dataset:
    """Documents back to back; document ``i`` is ``[offsets[i], offsets[i + 1])``."""

    tokens: NDArray[np.uint16]
    classes: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    levels: NDArray[np.uint8]

    def save(self, folder: Path) -> None:
        for name, array in vars(self).items():
            np.save(folder / f"{name}.npy", array)

    @staticmethod
    def load(folder: Path) -> Dataset:
        names = ("tokens", "classes", "offsets", "levels")
        return Dataset(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in names))


def build(source: DocumentSource, tokenizer: Tokenizer, share: float = 1.0) -> Dataset:
    """Documents of every level up to its token count times ``share``."""
    ids: list[NDArray[np.uint16]] = []
    classes: list[NDArray[np.uint8]] = []
    lengths: list[int] = []
    levels: list[int] = []
    for level, wanted in enumerate(TOKENS_PER_LEVEL):
        total = 0
        while total < wanted * share:
            documents = [source.draw(level) for _ in range(1000)]
            for tokens, kinds in encode_batch(tokenizer, documents):
                length = min(len(tokens), MAX_DOCUMENT_TOKENS[level])
                ids.append(np.asarray(tokens[:length], dtype=np.uint16))
                classes.append(np.asarray(kinds[:length], dtype=np.uint8))
                lengths.append(length)
                levels.append(level)
                total += length
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Dataset(
        np.concatenate(ids), np.concatenate(classes), offsets, np.asarray(levels, dtype=np.uint8)
    )
