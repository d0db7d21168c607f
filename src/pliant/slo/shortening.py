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


class Shortener:
    """Shortens one prompt for one model, leaving alone what is protected."""

    def __init__(self, model: "ElasticModel", prompt: "Prompt", protect: Protect) -> None:
        """`prompt` is a text or messages."""
        self._model = model
        self._prepared = prepare_prompt(_text(prompt), model=model, protect=protect)
        self.text = prompt_text(_text(prompt))
        self.min_tokens = self._prepared.floor()

    def shorten(self, ratio: float, reading: Reading) -> "tuple[Prompt, list[int]]":
        """The prompt at `ratio` by the scores of `text`'s reading, and its tokens."""
        scorer = KnownScores(reading)
        short = self._prepared.at(ratio, scorer, self._model.bundle).prompt
        return short, self._model.encode_prompt(short)


def _text(prompt: "Prompt") -> "str | Sequence[Message]":
    return cast("str | Sequence[Message]", prompt)
