"""llama.cpp's names for the ways in which byte-level tokenizers split text before merging.

Told apart by what they do to texts that show every difference, not by how they are written.
The expressions are those of the models' own tokenizer.json files; src/llama-vocab.cpp of
llama.cpp has them in the form that its own splitter understands.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

from pliant.errors import ElastifyError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LOWER_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+"
_UPPER_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_SIGNS_AND_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"

LLAMA3_SPLIT = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}"
QWEN2_SPLIT = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_SIGNS}|{_SPACES}"
GPT4O_SPLIT = (
    rf"{_LOWER_WORD}{_CONTRACTIONS}?|{_UPPER_WORD}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|"
    rf"{_SIGNS_AND_SLASHES}|{_SPACES}"
)
TEKKEN_SPLIT = rf"{_LOWER_WORD}|{_UPPER_WORD}|\p{{N}}|{_SIGNS_AND_SLASHES}|{_SPACES}"

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_WORDS = {**_BYTES, "use_regex": True}


@dataclass(frozen=True)
class _Known:
    """`ignores_merges`: a piece that is a token is taken whole, however it would be merged."""

    name: str
    spec: dict[str, Any]
    ignores_merges: bool = False


def _split(expression: str) -> dict[str, Any]:
    split = {
        "type": "Split",
        "pattern": {"Regex": expression},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, {**_BYTES, "use_regex": False}]}


_DIGITS = {"type": "Digits", "individual_digits": True}
_KNOWN = (
    _Known("gpt-2", _WORDS),
    _Known("llama-bpe", _split(LLAMA3_SPLIT), ignores_merges=True),
    _Known("dbrx", _split(LLAMA3_SPLIT)),
    _Known("qwen2", _split(QWEN2_SPLIT)),
    _Known("smollm", {"type": "Sequence", "pretokenizers": [_DIGITS, _WORDS]}),
    _Known("gpt-4o", _split(GPT4O_SPLIT)),
    _Known("tekken", _split(TEKKEN_SPLIT), ignores_merges=True),
)
_LETTERS = "aZéÉßǅʰ中あ한ไकعא\u0301"
_OTHERS = "3٣²½'-/.,!\"_$+^😀\u200d\u00a0\u3000\t\n\r"
_TEMPLATES = ("{0}{1}", "x{0}{1}y", "X {0} {1}Y", "{0}{0}{1}{1}", " {0}  {1}\n", "'{0}'{1}s")
_TEXTS = (
    "I'M you'Re they'LL we'd don't it'S 'tis x'ſ",
    "HTTPServer camelCase iPhone ÉCOLE Straße McDonald's",
    "1234567 3.14159 1,000,000 0x1F600 12:30 2024-11-20 ٣٤٥",
    "a  b   c\t\td \n e\n\n\nf\r\n\r\n  g   ",
    "if (x == 0) {\n\treturn foo->bar[i++];\n}  // ok\n",
    "日本語のテキスト、中文文本。한국어 ไทย हिन्दी العربية עברית",
    "👍🏽 👨‍👩‍👧 🇩🇪 ✌️ e\u0301 n\u0303",
    "https://a.b/c?d=e&f=%20#g ../x/ C:\\y\\ a_b __init__ ///\n!!!\n\n",
)


def pre_tokenizer_name(spec: dict[str, Any]) -> str:
    """llama.cpp's name for what the tokenizer.json content `spec` does before merging.

    Raises ElastifyError, naming its parts, for one that llama.cpp does not have.
    """
    normalizer = (spec.get("normalizer") or {}).get("type", "NFC")
    if normalizer != "NFC":
        raise ElastifyError(
            f"a byte-level tokenizer with the normalizer {normalizer} is not supported"
        )
    ignores_merges = bool(spec["model"].get("ignore_merges"))
    pre_tokenizer = spec.get("pre_tokenizer")
    pieces = _pieces(pre_tokenizer) if pre_tokenizer else None
    for known in _KNOWN:
        if known.ignores_merges == ignores_merges and pieces == _known_pieces(known.name):
            return known.name
    merging = " without merges inside words" if ignores_merges else ""
    raise ElastifyError(
        f"llama.cpp would not split text as this tokenizer does ({_described(pre_tokenizer)}"
        f"{merging}); supported: {', '.join(known.name for known in _KNOWN)}"
    )


def _described(pre_tokenizer: dict[str, Any] | None) -> str:
    parts = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer or {"type": "none"}])
    texts = (
        f"{part.get('type')} {part['pattern']['Regex']!r}"
        if isinstance(part.get("pattern"), dict) and "Regex" in part["pattern"]
        else str(part.get("type"))
        for part in parts
    )
    return " + ".join(texts)


@cache
def _known_pieces(name: str) -> tuple[tuple[str, ...], ...]:
    return _pieces(next(known.spec for known in _KNOWN if known.name == name))


def _pieces(pre_tokenizer: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """The pieces of each probe, in the byte-level alphabet."""
    from tokenizers import Tokenizer

    empty = {"type": "BPE", "vocab": {}, "merges": []}
    text = json.dumps({"version": "1.0", "model": empty, "pre_tokenizer": pre_tokenizer})
    try:
        split = Tokenizer.from_str(text).pre_tokenizer.pre_tokenize_str
        return tuple(tuple(piece for piece, _ in split(probe)) for probe in _probes())
    except Exception as error:  # tokenizers raises plain Exception
        raise ElastifyError(f"the tokenizer's pre_tokenizer is not understood: {error}") from error


def _probes() -> Iterator[str]:
    yield from _TEXTS
    characters = _LETTERS + _OTHERS
    for template, first, second in product(_TEMPLATES, characters, characters):
        yield template.format(first, second)
