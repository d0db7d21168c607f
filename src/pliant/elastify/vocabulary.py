"""A Hugging Face tokenizer as llama.cpp's GGUF keys describe it.

Two families are understood: byte-level BPE ("gpt2") whose pre-tokenizer llama.cpp knows by
name, and SentencePiece-style BPE with byte fallback ("llama").
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gguf import TokenType

from pliant.elastify.pretokenizers import pre_tokenizer_name
from pliant.elastify.source import load_tokenizer, read_json
from pliant.errors import ElastifyError

NEVER_MERGED_SCORE = -1e9
WORD_START = "\u2581"


@dataclass(frozen=True)
class Vocabulary:
    """What goes into the `tokenizer.*` keys. `scores` only for "llama", `merges` for "gpt2"."""

    model: Literal["gpt2", "llama"]
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...]
    merges: tuple[str, ...]
    bos: int | None
    eos: int | None
    pad: int | None
    unk: int | None
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    chat_template: str | None


def read_vocabulary(folder: Path, vocab_size: int) -> Vocabulary:
    """Reads the folder's tokenizer; unused ids up to `vocab_size` are filled.

    Raises ElastifyError for a tokenizer that llama.cpp would not reproduce.
    """
    tokenizer = load_tokenizer(folder)
    spec = _tokenizer_spec(folder, tokenizer)
    bpe = spec["model"]
    if bpe.get("type", "BPE") != "BPE":
        raise ElastifyError(f"tokenizer model {bpe.get('type')!r} is not supported (only BPE)")
    is_sentencepiece = bool(bpe.get("byte_fallback"))
    tokens, types = _tokens(folder, spec, vocab_size, is_sentencepiece)
    if is_sentencepiece:
        _check_bytes(folder, tokens)
    merges = [m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]]
    bos, eos = (_identifier(folder, tokenizer, name) for name in ("bos", "eos"))
    pad, unk = tokenizer.pad_token_id, tokenizer.unk_token_id
    _check_ids(folder, {"bos": bos, "eos": eos, "pad": pad, "unk": unk}, vocab_size)
    sample = tokenizer("a")["input_ids"]
    return Vocabulary(
        model="llama" if is_sentencepiece else "gpt2",
        pre="default" if is_sentencepiece else pre_tokenizer_name(spec),
        tokens=tuple(tokens),
        types=tuple(types),
        scores=_scores(tokens, merges) if is_sentencepiece else (),
        merges=() if is_sentencepiece else tuple(merges),
        bos=bos,
        eos=eos,
        pad=pad,
        unk=unk,
        add_bos=sample[0] == bos,
        add_eos=sample[-1] == eos,
        add_space_prefix=is_sentencepiece and _adds_space_prefix(spec),
        chat_template=_chat_template(tokenizer),
    )


def _identifier(folder: Path, tokenizer: Any, name: str) -> int | None:
    """The tokenizer's, else the model's: without one llama.cpp takes a token of its own."""
    found = getattr(tokenizer, f"{name}_token_id")
    if found is None and (folder / "config.json").exists():
        found = read_json(folder / "config.json").get(f"{name}_token_id")
    if isinstance(found, list):
        found = found[0] if found else None
    return None if found is None else int(found)


def _check_ids(folder: Path, identifiers: Mapping[str, int | None], vocab_size: int) -> None:
    for name, identifier in identifiers.items():
        if identifier is not None and not 0 <= identifier < vocab_size:
            raise ElastifyError(
                f"{folder}: {name}_token_id is {identifier}, not one of the {vocab_size} tokens"
            )


def _tokenizer_spec(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """The content of tokenizer.json, converted from tokenizer.model where there is none."""
    path = folder / "tokenizer.json"
    try:
        text = path.read_text("utf-8") if path.exists() else tokenizer.backend_tokenizer.to_str()
        spec: dict[str, Any] = json.loads(text)
    except (AttributeError, OSError, ValueError) as error:
        raise ElastifyError(f"the tokenizer in {folder} cannot be read: {error}") from error
    if not isinstance(spec.get("model"), dict) or "merges" not in spec["model"]:
        raise ElastifyError(f"the tokenizer in {folder} is not a BPE tokenizer")
    return spec


def _tokens(
    folder: Path, spec: dict[str, Any], vocab_size: int, is_sentencepiece: bool
) -> tuple[list[str], list[int]]:
    tokens: list[str | None] = [None] * vocab_size
    types = [int(TokenType.UNUSED)] * vocab_size

    def put(index: int, text: str, kind: int) -> None:
        if not 0 <= index < vocab_size:
            raise ElastifyError(
                f"{folder}: the tokenizer's token {text!r} has id {index}, but config.json says "
                f"that vocab_size is {vocab_size}: they are not of the same model"
            )
        tokens[index], types[index] = text, kind

    for text, index in spec["model"]["vocab"].items():
        is_byte = is_sentencepiece and _is_byte_token(text)
        put(index, text, int(TokenType.BYTE if is_byte else TokenType.NORMAL))
    for added in spec.get("added_tokens", []):
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        if added["content"] == spec["model"].get("unk_token") and is_sentencepiece:
            kind = TokenType.UNKNOWN
        put(added["id"], added["content"], int(kind))
    return [text or f"[PAD{index}]" for index, text in enumerate(tokens)], types


def _is_byte_token(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _check_bytes(folder: Path, tokens: Sequence[str]) -> None:
    missing = {f"<0x{byte:02X}>" for byte in range(256)}.difference(tokens)
    if missing:
        raise ElastifyError(
            f"the tokenizer in {folder} lacks {len(missing)} of the 256 byte tokens (it was made "
            "without byte fallback); llama.cpp cannot tokenize all text without them"
        )


def _scores(tokens: Sequence[str], merges: Sequence[str]) -> tuple[float, ...]:
    """llama.cpp joins the pair with the highest score; a token's rank is its first merge's."""
    rank: dict[str, int] = {}
    for index, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", ""), index)
    return tuple(-float(rank[t]) if t in rank else NEVER_MERGED_SCORE for t in tokens)


def _adds_space_prefix(spec: dict[str, Any]) -> bool:
    """Whether the text's first word is spelled as if a space preceded it."""
    pre_tokenizer = spec.get("pre_tokenizer") or {}
    if pre_tokenizer.get("type") == "Metaspace":
        return bool(pre_tokenizer.get("prepend_scheme", "always") != "never")
    normalizer = spec.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    return any(
        step.get("type") == "Prepend" and step.get("prepend") == WORD_START for step in steps
    )


def _chat_template(tokenizer: Any) -> str | None:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return None if template is None else str(template)
