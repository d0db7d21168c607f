"""Which characters of a text are its last question.

The rule, for prompts of apps and of people alike. Of the last message of the user, or of a bare
text, it takes

- the last line, or of a long one (above `MAX_QUESTION_CHARS`) the last sentence;
- the last sentence that ends in a question mark, for a question that comes before its material;
- a first line that ends in a colon: "Summarise this text:".

A stretch longer than `MAX_QUESTION_CHARS` is material, no question. Of a bare text in one line the
last sentence counts, and its only sentence with a question mark alone: nothing else says that it
asks.
"""

import re

MAX_QUESTION_CHARS = 400

_LINE_END = re.compile(r"[\n\r\v\f\x85\u2028\u2029]+")
_SENTENCE_END = re.compile(
    r"(?<![.!?\u061f])[.!?\u061f]++[\"')\]\u00bb\u201d\u2019]*+(?=\s)"
    r"|[\u3002\uff01\uff1f]++[\"')\]\u300d\u300f\u201d\u2019\uff09]*+"
    rf"|{_LINE_END.pattern}"
)
_ASKS = re.compile(r"[?\u061f\uff1f][\"')\]\u00bb\u201d\u2019\u300d\u300f\uff09\s]*+\Z")
_COLONS = (":", "\uff1a")

Range = tuple[int, int]


def question_ranges(text: str, *, is_message: bool) -> list[Range]:
    """Ranges of `text` that ask, without the space around them; they may overlap."""
    lines = _pieces(text, _LINE_END)
    if not lines:
        return []
    sentences = _pieces(text, _SENTENCE_END)
    asking = [each for each in sentences if _ASKS.search(text, each[0], each[1])][-1:]
    found = asking
    if is_message or len(sentences) > 1:
        is_line = is_message or len(lines) > 1
        is_short = lines[-1][1] - lines[-1][0] <= MAX_QUESTION_CHARS
        found = [*asking, lines[-1] if is_line and is_short else sentences[-1]]
    if len(lines) > 1 and text[: lines[0][1]].endswith(_COLONS):
        found = [lines[0], *found]
    return [(start, end) for start, end in found if end - start <= MAX_QUESTION_CHARS]


def _pieces(text: str, separator: re.Pattern[str]) -> list[Range]:
    """What lies between separators, with the visible part of its separator; no blank ones."""
    edges = [0, *(found.end() for found in separator.finditer(text)), len(text)]
    pieces = []
    for start, end in zip(edges, edges[1:], strict=False):
        piece = text[start:end]
        visible = piece.strip()
        if visible:
            start += len(piece) - len(piece.lstrip())
            pieces.append((start, start + len(visible)))
    return pieces
