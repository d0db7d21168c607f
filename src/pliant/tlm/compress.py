"""Shorten prompts: drop the words worth least, keep what is protected, in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pliant.engine.chat import Message
from pliant.engine.model import DEFAULT_BUNDLE, ElasticModel
from pliant.tlm.protect import Protect
from pliant.tlm.scores import Scorer

CharRange = tuple[int, int]


@dataclass(frozen=True)
class Compressed:
    """What is left of a text. Lengths are in tokens of the LLM.

    `kept` are the ranges of the original's characters that `text` is made of, in order; `ratio`
    is `num_tokens` / `num_original_tokens`, above `asked` only where protected parts or the one
    word that always stays did not allow less.
    """

    text: str
    kept: tuple[CharRange, ...]
    ratio: float
    asked: float
    num_tokens: int
    num_original_tokens: int


@dataclass(frozen=True)
class CompressedPrompt:
    """As `Compressed`: `prompt` is of the kind given, `kept` ranges of its `prompt_text`.

    Tokens are those of the whole prompt as it is computed, chat markup included.
    """

    prompt: str | tuple[Message, ...]
    kept: tuple[CharRange, ...]
    ratio: float
    asked: float
    num_tokens: int
    num_original_tokens: int


def compress(
    text: str,
    ratio: float,
    *,
    model: ElasticModel | str | Path = DEFAULT_BUNDLE,
    protect: Protect = Protect(),
    scorer: Scorer | None = None,
) -> Compressed:
    """`text` in at most `ratio` of its tokens, as far as what is protected allows.

    Words are dropped whole, those of the lowest score first; the rest stays in order. The
    tokens are those of `model`, a loaded one or a bundle's name or path. Without a `scorer` the
    bundle's TLM scores. Raises RequestError for a ratio outside 0..1 and BundleError if the
    bundle has no TLM and no scorer is given.
    """
    raise NotImplementedError


def compress_prompt(
    prompt: str | Sequence[Message],
    ratio: float,
    *,
    model: ElasticModel,
    protect: Protect = Protect(),
    scorer: Scorer | None = None,
) -> CompressedPrompt:
    """As `compress`, for a text or messages; messages stay messages, roles and all.

    The ratio is that of the prompt's tokens in all, so that it is what prefill pays. The scorer
    gets `prompt_text(prompt)` as one text.
    """
    raise NotImplementedError


def prompt_text(prompt: str | Sequence[Message]) -> str:
    """What the TLM reads of a prompt: its text, or its messages' texts, one line break between.

    Raises RequestError for token ids, which cannot be compressed.
    """
    raise NotImplementedError
