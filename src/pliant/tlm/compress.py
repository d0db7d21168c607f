"""Shorten prompts: drop the words worth least, keep what is protected, in order."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pliant.bundle import Bundle, open_bundle
from pliant.engine.chat import Message
from pliant.engine.model import DEFAULT_BUNDLE, ElasticModel
from pliant.engine.tokenizer import Tokenizer
from pliant.errors import RequestError
from pliant.tlm.prepared import CharRange, CompressedPrompt, PreparedPrompt
from pliant.tlm.protect import EVERYTHING, Protect
from pliant.tlm.scores import Scorer
from pliant.tlm.segments import prompt_text

__all__ = [
    "Compressed",
    "CompressedPrompt",
    "PreparedPrompt",
    "compress",
    "compress_prompt",
    "prepare_prompt",
    "prompt_text",
]


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


def compress(
    text: str,
    ratio: float,
    *,
    model: ElasticModel | str | Path = DEFAULT_BUNDLE,
    protect: Protect = EVERYTHING,
    scorer: Scorer | None = None,
) -> Compressed:
    """`text` in at most `ratio` of its tokens, as far as what is protected allows.

    Words are dropped whole, those of the lowest score first; the rest stays in order. The
    tokens are those of `model`, a loaded one or a bundle's name or path, which is opened for this
    call. Without a `scorer` the bundle's TLM scores, opened for this call too; for many texts pass
    a loaded model and a TinyModel. Raises RequestError for a ratio outside 0..1, BundleError if a
    scorer is needed, but none is given and the bundle has no TLM.
    """
    if not isinstance(text, str):
        raise RequestError("compress takes one text; compress_prompt takes messages")
    with _vocabulary(model) as (bundle, tokenizer):
        prepared = PreparedPrompt(
            text, tokenizer, lambda each: tokenizer.encode(str(each)), protect
        )
        done = prepared.at(ratio, scorer, bundle)
    assert isinstance(done.prompt, str)
    return Compressed(
        done.prompt, done.kept, done.ratio, ratio, done.num_tokens, done.num_original_tokens
    )


def compress_prompt(
    prompt: str | Sequence[Message],
    ratio: float,
    *,
    model: ElasticModel,
    protect: Protect = EVERYTHING,
    scorer: Scorer | None = None,
) -> CompressedPrompt:
    """As `compress`, for a text or messages; messages stay messages, roles and all.

    The ratio is that of the prompt's tokens in all, so that it is what prefill pays. The scorer
    gets `prompt_text(prompt)` as one text. Raises as `compress` and `ElasticModel.encode_prompt`.
    """
    return prepare_prompt(prompt, model=model, protect=protect).at(ratio, scorer, model.bundle)


def prepare_prompt(
    prompt: str | Sequence[Message],
    *,
    model: ElasticModel,
    protect: Protect = EVERYTHING,
    tokens: Sequence[int] | None = None,
) -> PreparedPrompt:
    """What `compress_prompt` does before it knows the ratio; `tokens` is what the model computes
    the prompt as, where that is known. Raises as `compress_prompt` does."""

    def encode(each: str | Sequence[Message]) -> Sequence[int]:
        return model.tokenizer.encode(each) if isinstance(each, str) else model.encode_prompt(each)

    return PreparedPrompt(prompt, model.tokenizer, encode, protect, tokens)


@contextmanager
def _vocabulary(model: ElasticModel | str | Path) -> Iterator[tuple[Bundle, Tokenizer]]:
    """Of a loaded model, or of a bundle that is opened without its weights."""
    if isinstance(model, ElasticModel):
        yield model.bundle, model.tokenizer
        return
    bundle = open_bundle(model)
    with Tokenizer(bundle.gguf.path) as tokenizer:
        yield bundle, tokenizer
