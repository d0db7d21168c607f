"""Cut a text into the words that compression keeps or drops whole.

A word is what stands between spaces, and ends earlier after a semicolon, a bar, a dash of
typesetting, or a comma that no digit follows. Scripts without spaces follow Unicode's word
boundaries (UAX #29) where those need no dictionary: a Han character is a word, a run of katakana
is one; a run of hiragana is one with the Han characters before it. Thai, Lao, Khmer and Burmese
are cut at their spaces only. Punctuation belongs to the word before it.
"""

import re
from collections.abc import Iterator

_HAN = "\u2e80-\u2fdf\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HIRAGANA = "\u3041-\u3096\u3099-\u309a\u309d-\u309f\u30fc"
_KATAKANA = "\u3099-\u309a\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_UNSPACED = _HAN + _HIRAGANA + _KATAKANA
_BREAKS = ";|\u2013\u2014\u2026"

# A backslash is not taken for punctuation: it may start an escape of a JSON string.
_PUNCTUATION = r"[^\w\s\\]*+"
_WORD = re.compile(
    rf"(?P<han>[{_HAN}]++)(?P<kana>[{_HIRAGANA}]*+){_PUNCTUATION}"
    rf"|[{_HIRAGANA}]++{_PUNCTUATION}"
    rf"|[{_KATAKANA}]++{_PUNCTUATION}"
    rf"|(?=[^\s{_UNSPACED}])"
    rf"(?:[^\s{_UNSPACED}{_BREAKS},]|,(?=\d))*+(?:[{_BREAKS}]|,(?!\d))*+"
)


def word_ranges(text: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Characters of each word of `text` between `start` and `end`, in order; all but spaces."""
    for found in _WORD.finditer(text, start, len(text) if end is None else end):
        han = found["han"]
        if han is None or found["kana"]:
            yield found.span()
            continue
        last = found.start() + len(han) - 1
        for position in range(found.start(), last):
            yield position, position + 1
        yield last, found.end()
