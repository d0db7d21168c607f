"""What becomes of a chat that reaches the model's length: its oldest turns are shortened."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from pliant.engine.chat import Message
from pliant.engine.model import ElasticModel
from pliant.errors import ContextOverflowError

logger = logging.getLogger(__name__)

# Shortens a text to a share of its tokens, as `pliant.tlm.compress.compress` does.
Compress = Callable[[str, float], str]

# A chat is made to fit this share of the model's length, so that the next calls fit, too.
TARGET_SHARE = 0.75
_RATIOS = (0.5, 0.25, 0.1)


def shorten_chat(
    model: ElasticModel, messages: Sequence[Message], num_new: int, compress: Compress
) -> list[Message]:
    """`messages` with their oldest turns compressed, as many and as far as needed.

    System messages and the last `num_new` stay whole. Says so in the log: what was left out is
    gone from the context. Raises ContextOverflowError if it does not fit even so.
    """
    target = int(TARGET_SHARE * model.engine.context_length)
    made = list(messages)
    for ratio in _RATIOS:
        for index, message in enumerate(messages[: len(messages) - num_new]):
            if message.get("role") == "system" or not isinstance(message.get("content"), str):
                continue
            if _length(model, made) <= target:
                break
            made[index] = _with_text(message, compress(message["content"], ratio))
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


def _with_text(message: Message, text: str) -> dict[str, Any]:
    return {**message, "content": text}
