"""What becomes of a chat that reaches the model's length: its oldest turns are shortened."""

import logging
from collections.abc import Sequence

from pliant.engine.chat import Message
from pliant.engine.model import ElasticModel
from pliant.errors import ContextOverflowError, RequestError
from pliant.tlm.compress import compress
from pliant.tlm.model import TinyModel
from pliant.tlm.protect import Protect
from pliant.tlm.scores import Scorer

logger = logging.getLogger(__name__)

# A chat is made to fit this share of the model's length, so that the next calls fit, too.
TARGET_SHARE = 0.75
# What was asked long ago was answered. Facts stay as long as that is enough.
FACTS = Protect(question=False)
_NOTHING = Protect(False, False, False, False, False, False, False)
_STEPS = ((0.5, FACTS), (0.25, FACTS), (0.1, _NOTHING))
_KEPT_ROLES = ("system", "developer")


def open_scorer(model: ElasticModel) -> TinyModel:
    """The bundle's tiny language model. Raises RequestError if it has none, BundleError."""
    path = model.bundle.tlm_path
    if path is None:
        raise RequestError(
            f"old turns are shortened by a tiny language model, and {model.bundle.name} has none: "
            "make one with `pliant tlm train`, or let what does not fit be an error"
        )
    return TinyModel(path, threads=model.engine.threads)


def shorten_chat(
    model: ElasticModel, messages: Sequence[Message], num_new: int, scorer: Scorer
) -> list[Message]:
    """`messages` with their oldest turns compressed, as many and as far as needed.

    System messages and the last `num_new` stay whole. Says so in the log: what was left out is
    gone from the context. Raises ContextOverflowError if it does not fit even so.
    """
    target = int(TARGET_SHARE * model.engine.context_length)
    made = list(messages)
    for ratio, protect in _STEPS:
        for index, message in enumerate(messages[: len(messages) - num_new]):
            text = message.get("content")
            if message.get("role") in _KEPT_ROLES or not isinstance(text, str):
                continue
            if _length(model, made) <= target:
                break
            short = compress(text, ratio, model=model, protect=protect, scorer=scorer)
            made[index] = {**message, "content": short.text}
    length, limit = _length(model, made), model.engine.context_length
    if length >= limit:
        raise ContextOverflowError(
            f"the chat has {length} tokens with all its old turns shortened, but the model's "
            f"context holds {limit}: begin a new one",
            needed_tokens=length + 1,
            available_tokens=limit,
        )
    logger.warning("a chat reached the model's length: its oldest turns were shortened")
    return made


def _length(model: ElasticModel, messages: Sequence[Message]) -> int:
    return len(model.tokenizer.encode_pieces(model.chat_template.render(messages)))
