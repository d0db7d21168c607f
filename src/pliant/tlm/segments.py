"""The texts that a prompt is made of: where they stand in it, and how to put others there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pliant.engine.chat import Message
from pliant.errors import RequestError
from pliant.tlm.protect import Protect, whole_ranges
from pliant.tlm.units import Unit, units_of

_SEPARATOR = "\n"
_SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Segment:
    """Characters `start` to `end` of a prompt's text, from one message or a bare prompt."""

    start: int
    end: int
    role: str | None
    asks: bool


def prompt_text(prompt: str | Sequence[Message]) -> str:
    """What the TLM reads of a prompt: its text, or its messages' texts, one line break between.

    Raises RequestError for token ids, which cannot be compressed.
    """
    return _SEPARATOR.join(text for _, text in _texts(prompt))


def segments_of(prompt: str | Sequence[Message]) -> list[Segment]:
    """One for each text of `prompt`; the last one of a user asks."""
    texts = list(_texts(prompt))
    asking = max((i for i, (role, _) in enumerate(texts) if role in (None, "user")), default=None)
    segments = []
    start = 0
    for index, (role, text) in enumerate(texts):
        segments.append(Segment(start, start + len(text), role, asks=index == asking))
        start += len(text) + len(_SEPARATOR)
    return segments


def segment_units(
    text: str, segment: Segment, protect: Protect, markup: Sequence[str]
) -> list[Unit]:
    """The units of `segment`, their characters counted in `text`, the whole prompt's."""
    if protect.system and segment.role in _SYSTEM_ROLES:
        return [Unit(segment.start, segment.end, True)] if segment.start < segment.end else []
    own_text = text[segment.start : segment.end]
    whole = whole_ranges(
        own_text, protect, markup, is_message=segment.role is not None, asks=segment.asks
    )
    units = units_of(own_text, whole, protect)
    if not segment.start:
        return units
    return [Unit(segment.start + u.start, segment.start + u.end, u.is_protected) for u in units]


def with_texts(prompt: str | Sequence[Message], texts: Sequence[str]) -> str | tuple[Message, ...]:
    """`prompt` with `texts` in place of its own, one for each segment."""
    if isinstance(prompt, str):
        return texts[0]
    new = iter(texts)
    return tuple({**message, **_new_content(message, new)} for message in prompt)


def _texts(prompt: str | Sequence[Message]) -> Iterator[tuple[str | None, str]]:
    """Each text with its role; None is a bare prompt."""
    if isinstance(prompt, str):
        yield None, prompt
        return
    for message in prompt:
        if not isinstance(message, Mapping):
            raise RequestError(
                "what can be compressed is one text or a list of messages, no token ids"
            )
        content = message.get("content")
        for part in [content] if isinstance(content, str) else content or ():
            text = _part_text(part)
            if text is not None:
                yield str(message.get("role")), text


def _part_text(part: Any) -> str | None:
    """The text of a message's content, or of a part of it as chat services have it."""
    if isinstance(part, Mapping):
        part = part.get("text")
    return part if isinstance(part, str) else None


def _new_content(message: Message, texts: Iterator[str]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, str):
        return {"content": next(texts)}
    if not content:
        return {}
    return {
        "content": [
            part if _part_text(part) is None
            else {**part, "text": next(texts)} if isinstance(part, Mapping)
            else next(texts)
            for part in content
        ]
    }  # fmt: skip
