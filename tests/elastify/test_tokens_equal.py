"""Token ids of 1,000 mixed strings: llama.cpp with the exported vocabulary, and transformers."""

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from pliant.elastify.export import write_gguf
from pliant.elastify.source import load_tokenizer
from pliant.elastify.vocabulary import read_vocabulary
from pliant.engine.tokenizer import Tokenizer
from pliant.errors import ElastifyError
from support.tiny_hf import make_model, write_tokenizer
from support.trained_tokenizers import byte_level, mixed_strings, write_sentencepiece

BYTE_LEVEL: dict[str, dict[str, Any]] = {
    "gpt-2": {},
    "smollm": {},
    "llama-bpe": {"ignore_merges": True},
    "dbrx": {},
    "qwen2": {"normalizer": "NFC"},
    "gpt-4o": {},
    "tekken": {"ignore_merges": True},
}
# llama.cpp takes capitals outside of ASCII for small letters here, and marks for signs.
APPROXIMATE = ("gpt-4o", "tekken")


def is_split_alike(character: str) -> bool:
    category = unicodedata.category(character)
    return not category.startswith("M") and (character.isascii() or category != "Lu")


def compare(folder: Path, texts: list[str]) -> Any:
    vocabulary = read_vocabulary(folder, 2100)
    assert len(texts) == 1000
    path = folder / "model.gguf"
    write_gguf(make_model(vocab_size=2100), vocabulary, path, "F16", "tokens")
    reference = load_tokenizer(folder)
    with Tokenizer(path) as exported:
        for text in texts:
            expected = reference(text, add_special_tokens=False)["input_ids"]
            assert exported.encode(text, add_bos=False) == expected, text
    return vocabulary


@pytest.mark.parametrize("pre", BYTE_LEVEL)
def test_byte_level(pre: str, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, byte_level(pre, **BYTE_LEVEL[pre]))
    texts = mixed_strings()
    if "normalizer" in BYTE_LEVEL[pre]:
        texts = [unicodedata.normalize("NFC", text) for text in texts]
    if pre in APPROXIMATE:
        texts = ["".join(filter(is_split_alike, text)) for text in texts]
    assert compare(tmp_path, texts).pre == pre


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece(tmp_path: Path, prefix: bool) -> None:
    write_sentencepiece(tmp_path, add_prefix_space=prefix)
    vocabulary = compare(tmp_path, mixed_strings())
    assert (vocabulary.model, vocabulary.bos, vocabulary.eos) == ("llama", 1, 2)
    assert vocabulary.add_space_prefix == prefix


def test_sentencepiece_without_byte_fallback_is_refused(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path, byte_fallback=False)
    with pytest.raises(ElastifyError, match="lacks 256 of the 256 byte tokens"):
        read_vocabulary(tmp_path, 2100)


def test_the_strings_are_mixed() -> None:
    texts = mixed_strings()
    assert len(set(texts)) > 950
    assert len(texts) == 1000
    whole = "".join(texts)
    kinds = {unicodedata.category(character) for character in whole}
    assert {"Lu", "Ll", "Lo", "Mn", "Nd", "No", "So", "Sk", "Cc", "Cf", "Zs"} <= kinds
    for part in (
        "👨‍👩‍👧",
        "日本語",
        "한국어",
        "العربية",
        "->",
        "12345",
        "\x00",
        "\x1b",
        "    ",
        "\r\n",
    ):
        assert part in whole
