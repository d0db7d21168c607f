"""Shorten a request's prompt by what the TLM said of it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from pliant.slo.reader import KnownScores, NoScores
from pliant.tlm.compress import compress_prompt, prompt_text
from pliant.tlm.model import Reading
from pliant.tlm.protect import Protect
from pliant.tlm.scores import Scorer

if TYPE_CHECKING:
    from pliant.engine.chat import Message
    from pliant.engine.model import ElasticModel, Prompt
    from pliant.tlm.compress import CompressedPrompt


def is_text(prompt: "Prompt") -> bool:
    """Whether `prompt` is a text or messages; token ids cannot be shortened."""
    return isinstance(prompt, str) or all(isinstance(item, Mapping) for item in prompt)


def text_of(prompt: "Prompt") -> str:
    """What the TLM reads."""
    return prompt_text(_text(prompt))


class Shortener:
    """Shortens prompts for one model, leaving alone what is protected."""

    def __init__(self, model: "ElasticModel", protect: Protect) -> None:
        self._model = model
        self._protect = protect

    def floor(self, prompt: "Prompt", ratio: float) -> int:
        """Tokens of the prompt when all is dropped that may be, down to `ratio`."""
        return self._compress(prompt, ratio, NoScores()).num_tokens

    def shorten(
        self, prompt: "Prompt", ratio: float, reading: Reading
    ) -> "tuple[Prompt, Sequence[int]]":
        """The prompt at `ratio` by the reading's scores, and the tokens it is computed as."""
        short = self._compress(prompt, ratio, KnownScores(reading)).prompt
        return short, self._model.encode_prompt(short)

    def _compress(self, prompt: "Prompt", ratio: float, scorer: Scorer) -> "CompressedPrompt":
        return compress_prompt(
            _text(prompt), ratio, model=self._model, protect=self._protect, scorer=scorer
        )


def _text(prompt: "Prompt") -> "str | Sequence[Message]":
    return cast("str | Sequence[Message]", prompt)
