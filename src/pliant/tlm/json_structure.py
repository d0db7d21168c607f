"""Find JSON documents in a text, and what of them must stay for them to be read again."""

import re
from dataclasses import dataclass, field
from typing import Literal

_SPACE = re.compile(r"[ \t\n\r]*+")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"')
_SCALAR = re.compile(
    r"(?:true|false|null|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?+[0-9]++)?+)"
    r"(?![\w.+-])"
)
_OPENING = re.compile(r"[\[{]")
_CLOSING = {"{": "}", "[": "]"}

Range = tuple[int, int]
_Expected = Literal["first", "value", "comma"]  # "first": a value or the closing bracket


@dataclass
class _Container:
    """An object or array that is being read; `values` are the insides of its string values."""

    start: int
    kind: str
    values: list[Range] = field(default_factory=list)
    inner: list["_Container"] = field(default_factory=list)
    end: int = 0


def json_structure(text: str) -> list[Range]:
    """Ranges of `text`: objects and arrays, but for the insides of their string values.

    In order, without overlap; takes time linear in the text. Where a document breaks off or is
    wrong, the whole objects and arrays in it count.
    """
    ranges: list[Range] = []
    position = 0
    while found := _OPENING.search(text, position):
        reader = _Reader(text, found.start())
        for container in reader.read():
            ranges += _outside(container)
        position = max(reader.position, found.end())
    return ranges


class _Reader:
    """Reads one document from an opening bracket on; keeps a stack, so depth costs nothing."""

    def __init__(self, text: str, start: int) -> None:
        self._text = text
        self._stack = [_Container(start, text[start])]
        self.position = start + 1

    def read(self) -> list[_Container]:
        """The document, or the whole containers inside one that ends in an error."""
        expected: _Expected | None = "first"
        while expected is not None:
            self._skip_space()
            top = self._stack[-1]
            if expected != "value" and self._takes(_CLOSING[top.kind]):
                top.end = self.position
                if len(self._stack) == 1:
                    return self._stack
                self._stack.pop()
                self._stack[-1].inner.append(top)
                expected = "comma"
            elif expected == "comma":
                expected = "value" if self._takes(",") else None
            else:
                expected = self._read_value(top)
        return [inner for each in self._stack for inner in each.inner]

    def _read_value(self, top: _Container) -> _Expected | None:
        """Take a value, with its key in an object; of a container only the opening bracket.

        Returns what is expected after it, None if there is no value here.
        """
        if top.kind == "{" and not (self._matches(_STRING) and self._takes_colon()):
            return None
        start = self.position
        opening = self._text[start : start + 1]
        if opening in _CLOSING:
            self._stack.append(_Container(start, opening))
            self.position += 1
            return "first"
        if self._matches(_STRING):
            top.values.append((start + 1, self.position - 1))
            return "comma"
        return "comma" if self._matches(_SCALAR) else None

    def _takes_colon(self) -> bool:
        self._skip_space()
        if not self._takes(":"):
            return False
        self._skip_space()
        return True

    def _takes(self, character: str) -> bool:
        if not self._text.startswith(character, self.position):
            return False
        self.position += 1
        return True

    def _matches(self, pattern: re.Pattern[str]) -> bool:
        found = pattern.match(self._text, self.position)
        if found is None:
            return False
        self.position = found.end()
        return True

    def _skip_space(self) -> None:
        self._matches(_SPACE)


def _outside(container: _Container) -> list[Range]:
    """The range of `container` without the insides of string values, its inner ones' too."""
    values: list[Range] = []
    waiting = [container]
    while waiting:
        each = waiting.pop()
        values += each.values
        waiting += each.inner
    edges = [container.start, *(edge for value in sorted(values) for edge in value), container.end]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)]
