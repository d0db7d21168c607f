"""Turn a stream of token bytes into text: whole code points, up to the first stop string."""

import codecs
from collections.abc import Sequence
from reprlib import repr as shorten

from pliant.errors import RequestError

MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 512


def check_stop_strings(stop: Sequence[str]) -> tuple[str, ...]:
    """`stop` as a tuple; raises RequestError naming what is wrong with it."""
    if isinstance(stop, str) or not isinstance(stop, Sequence):
        raise RequestError(f"stop is a list of strings, not {shorten(stop)}")
    if len(stop) > MAX_STOP_STRINGS:
        raise RequestError(f"stop has {len(stop)} strings; at most {MAX_STOP_STRINGS} are taken")
    for text in stop:
        if not isinstance(text, str) or not 0 < len(text) <= MAX_STOP_LENGTH:
            raise RequestError(f"stop strings have 1 to {MAX_STOP_LENGTH} characters, not {text!r}")
    return tuple(stop)


class TextStream:
    """Feed it bytes; it gives text as soon as that can no longer be part of a stop string.

    The first stop string is the one that is complete first, so what comes out does not depend
    on how the bytes were cut. After it, `stopped` is true and nothing more comes out.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, data: bytes) -> str:
        """New text, often empty. Invalid bytes become U+FFFD, never half a code point."""
        return self._take(self._decoder.decode(data))

    def finish(self) -> str:
        """What was held back, at the end of the generation."""
        text = self._take(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return text + rest

    def _take(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        found = [
            (start + len(stop), start)
            for stop in self._stop
            if (start := self._held.find(stop)) >= 0
        ]
        if found:
            _, start = min(found)
            ready, self._held = self._held[:start], ""
            self.stopped = True
            return ready
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        ready, self._held = self._held[:cut], self._held[cut:]
        return ready


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[len(text) - length :]):
            return length
    return 0
