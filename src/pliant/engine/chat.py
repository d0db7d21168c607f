"""Render messages with a model's chat template, keeping what people wrote apart from markup."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pliant.engine.template import CompiledTemplate
from pliant.errors import TemplateError

MAX_NESTING = 64

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Piece:
    """A stretch of a prompt; names of control tokens count in it only if `parse_special`."""

    text: str
    parse_special: bool


class ChatTemplate:
    """A compiled template with the names of the control tokens it may write."""

    def __init__(
        self, source: str, *, special_texts: Sequence[str] = (), bos: str = "", eos: str = ""
    ) -> None:
        """Raises TemplateError if `source` is not a template that jinja2 understands."""
        self._template = CompiledTemplate(source)
        # Templates tell "no tools" by None, not by absence.
        self._variables = {"bos_token": bos, "eos_token": eos, "tools": None, "documents": None}
        longest_first = sorted(filter(None, special_texts), key=len, reverse=True)
        self._names = "|".join(map(re.escape, longest_first)) or r"(?!)"
        starts = sorted({re.escape(text[0]) for text in longest_first})
        self._starts = "|".join(starts) or r"(?!)"

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> tuple[Piece, ...]:
        """The prompt for `messages`, in pieces.

        A control token's name inside a message stays text: a private mark breaks it before
        rendering, and what carries the mark afterwards is one piece of plain text, without it.
        The template sees contents otherwise unchanged, so it may trim or search them. Where it
        could join harmless parts into a name, the marks break every possible start of one.
        Raises TemplateError for messages that are none, or that the template refuses.
        """
        checked = _checked(messages)
        texts = _texts(checked)
        mark = _unused_mark(texts)
        markup = re.compile(f"(?:{self._names})(?!{mark})")

        def rendered(broken: str) -> str:
            return self._template.render(
                messages=[_map_texts(message, _breaker(broken, mark)) for message in checked],
                add_generation_prompt=add_generation_prompt,
                **self._variables,
            )

        text = rendered(self._names)
        if any(re.search(self._starts, part) for part in texts):
            safe = rendered(self._starts)
            if markup.findall(safe) != markup.findall(text):
                text = safe
        return tuple(_pieces(text, markup, mark))


def _pieces(text: str, markup: re.Pattern[str], mark: str) -> Iterator[Piece]:
    """Cut `text` around the stretches between control tokens that carry the mark."""
    start = done = 0
    for found in [*markup.finditer(text), None]:
        end = found.start() if found else len(text)
        if mark in text[start:end]:
            if start > done:
                yield Piece(text[done:start], parse_special=True)
            yield Piece(text[start:end].replace(mark, ""), parse_special=False)
            done = end
        start = found.end() if found else end
    if done < len(text):
        yield Piece(text[done:], parse_special=True)


def _breaker(pattern: str, mark: str) -> Callable[[str], str]:
    def broken(text: str) -> str:
        return re.sub(pattern, lambda found: found[0][0] + mark + found[0][1:], text)

    return broken


def _checked(messages: Sequence[Message]) -> list[Message]:
    if not messages:
        raise TemplateError("messages is empty")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise TemplateError(f"messages[{index}] is no object with a role")
        if not isinstance(message.get("content", ""), (str, list, tuple, type(None))):
            raise TemplateError(f"messages[{index}].content is neither text nor a list of parts")
    return list(messages)


def _map_texts(value: Any, change: Callable[[str], str], depth: int = 0) -> Any:
    """`value` (JSON-like) with every string in it changed, keys included."""
    if depth > MAX_NESTING:
        raise TemplateError(f"messages are nested deeper than {MAX_NESTING}")
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {
            _map_texts(key, change, depth): _map_texts(item, change, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_map_texts(item, change, depth + 1) for item in value]
    return value


def _texts(messages: list[Message]) -> list[str]:
    found: list[str] = []

    def keep(text: str) -> str:
        found.append(text)
        return text

    _map_texts(messages, keep)
    return found


def _unused_mark(texts: list[str]) -> str:
    """A code point that Unicode will never assign and that nobody wrote."""
    used = set().union(*texts)
    for mark in map(chr, range(0xFDD0, 0xFDF0)):
        if mark not in used:
            return mark
    raise TemplateError("messages use every code point that Unicode keeps for private marks")
