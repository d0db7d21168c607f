"""Shorten a request's prompt by what the TLM said of it. Importing it loads the native library."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from pliant.slo.reader import KnownScores
from pliant.tlm.compress import prepare_prompt, prompt_text
from pliant.tlm.model import Reading
from pliant.tlm.protect import Protect

if TYPE_CHECKING:
    from pliant.engine.chat import Message
    from pliant.engine.model import ElasticModel, Prompt
    from pliant.tlm.compress import CompressedPrompt


class Shortener:
    """Shortens one prompt for one model, leaving alone what is protected."""

    def __init__(
        self,
        model: "ElasticModel",
        prompt: "Prompt",
        tokens: Sequence[int],
        protect: Protect,
    ) -> None:
        """`prompt` is a text or messages, `tokens` what it is computed as."""
        self._model = model
        self._prepared = prepare_prompt(_text(prompt), model=model, protect=protect, tokens=tokens)
        self.text = prompt_text(_text(prompt))
        self.min_tokens = self._prepared.floor()

    def shorten(self, ratio: float, reading: Reading) -> "CompressedPrompt":
        """The prompt at `ratio` by the scores of `text`'s reading."""
        return self._prepared.at(ratio, KnownScores(reading), self._model.bundle)


def _text(prompt: "Prompt") -> "str | Sequence[Message]":
    return cast("str | Sequence[Message]", prompt)
