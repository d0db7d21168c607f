"""Public sets the built-in model learns from beside the generator.

Reads a folder of converted sets (see README.md for the originals and their licences).
Only the files named here are ever opened for training.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from .scene import Scene, Turn, block

INTENT_SETS = ("clinc150", "clinc150_mc8", "snips", "hwu64", "banking77")
READING_SET = "squad_xquad_en"
TRAINING_SETS = (*INTENT_SETS, READING_SET)
DIALOGUE_SHARD = "corpus-004.txt.xz"
VALID_SHARD = "corpus-valid.txt.xz"
SEPARATOR = "<|endoftext|>"
EVAL_SHARE_PERCENT = 8
"""Share of the intent rows kept from training to measure the intent task."""


def is_for_evaluation(question: str) -> bool:
    """Whether a row is kept from training, by a hash of its normalised question."""
    normal = " ".join(question.lower().split())
    return (
        int(hashlib.sha256(b"pocket" + normal.encode()).hexdigest()[:8], 16) % 100
        < EVAL_SHARE_PERCENT
    )


def read_rows(data: Path, name: str) -> list[dict[str, object]]:
    lines = (data / "tasks" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


class IntentSet:
    """Utterances of one set by label."""

    def __init__(self, data: Path, name: str, held_out: bool) -> None:
        choices = json.loads((data / "tasks" / "choices.json").read_text(encoding="utf-8"))
        labels: Sequence[str] = choices.get(name, {}).get("choices", ())
        self.by_label: dict[str, list[str]] = {}
        for row in read_rows(data, name):
            own = row.get("choices", labels)
            question, index = str(row["question"]), row["answer_index"]
            assert isinstance(own, Sequence) and isinstance(index, int)
            if is_for_evaluation(question) == held_out:
                self.by_label.setdefault(own[index], []).append(question)

    def __len__(self) -> int:
        return sum(map(len, self.by_label.values()))

    def scene(self, rng: random.Random, num_labels: int, num_turns: int) -> Scene:
        """A list of labels in random order and utterances of some of them."""
        labels = rng.sample(sorted(self.by_label), min(num_labels, len(self.by_label)))
        asked = rng.sample(labels, min(num_turns, len(labels)))
        style = rng.random()
        shown = {n: n.replace(" ", "_") if style < 0.2 else n for n in labels}
        choices = tuple(shown.values())
        turns = [Turn(rng.choice(self.by_label[n]), shown[n], choices) for n in asked]
        return Scene("intent", block("Intents", choices), tuple(turns))


def reading_scenes(data: Path) -> list[Scene]:
    """Paragraphs with up to two extractive questions each."""
    by_context: dict[str, list[Turn]] = {}
    for row in read_rows(data, READING_SET):
        answer = str(row["answer"])
        turn = Turn(str(row["question"]), answer, (answer,))
        by_context.setdefault(str(row["context"]), []).append(turn)
    return [Scene("reading", f"Text:\n{c}", tuple(t)) for c, t in by_context.items()]


def _shard_text(data: Path, name: str) -> bytes:
    return lzma.decompress((data / "corpus" / name).read_bytes())


def prose(data: Path) -> Iterator[str]:
    """Chapters and stories whose author died before 1956."""
    manifest = json.loads((data / "corpus" / "manifest.json").read_text(encoding="utf-8"))
    for shard in manifest["shards"]:
        if shard["file"] in (DIALOGUE_SHARD, VALID_SHARD):
            continue
        raw = _shard_text(data, shard["file"])
        for book in shard["sources"]:
            if not book.get("author_died_after_1955"):
                start = book["byte_offset"]
                yield from _documents(raw[start : start + book["bytes"]])


def dialogues(data: Path) -> Iterator[str]:
    yield from _documents(_shard_text(data, DIALOGUE_SHARD))


def validation_prose(data: Path) -> Iterator[str]:
    """Whole books that are in no training shard."""
    yield from _documents(_shard_text(data, VALID_SHARD))


def _documents(raw: bytes) -> list[str]:
    parts = raw.decode("utf-8", errors="ignore").split(SEPARATOR)
    return [p.strip() for p in parts if p.strip()]
