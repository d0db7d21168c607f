"""What adapters learn from, and what they are measured on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pliant.elastify.examples import Example, read_examples
from pliant.errors import ElastifyError
from pliant.files import read_file


@dataclass(frozen=True, eq=False)
class RecoveryData:
    """Examples to train on, and others to measure on; `sha256` of the file."""

    training: tuple[Example, ...]
    held_out: tuple[Example, ...]
    sha256: str


HELD_OUT_EVERY = 16
MAX_HELD_OUT = 128


def read_recovery_data(
    path: Path, tokenizer: Any, max_tokens: int, prompt_weight: float
) -> RecoveryData:
    """The examples of a file (see `read_examples`).

    One example in HELD_OUT_EVERY, at most MAX_HELD_OUT, is held out. Raises ElastifyError naming
    the line that is not understood, or if fewer than two examples of two tokens are left.
    """
    try:
        content = read_file(path)
    except OSError as error:
        raise ElastifyError(f"recovery data {path} cannot be read: {error}") from error
    try:
        text = content.decode("utf-8")
        examples = list(read_examples(path, text, tokenizer, max_tokens, prompt_weight))
    except ValueError as error:
        raise ElastifyError(f"recovery data {path} cannot be read: {error}") from error
    if len(examples) < 2:
        raise ElastifyError(f"recovery data {path} holds fewer than two examples to learn from")
    held_out = examples[::HELD_OUT_EVERY][:MAX_HELD_OUT]
    kept_out = {id(example) for example in held_out}
    training = tuple(example for example in examples if id(example) not in kept_out)
    return RecoveryData(training, tuple(held_out), hashlib.sha256(content).hexdigest())
