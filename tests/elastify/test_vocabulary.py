import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from pliant.bundle import GgufFile, open_bundle
from pliant.elastify.export import write_gguf
from pliant.elastify.pretokenizers import (
    LLAMA3_SPLIT,
)
from pliant.elastify.source import load_tokenizer
from pliant.elastify.vocabulary import read_vocabulary
from pliant.errors import ElastifyError
from support.llama_reference import reference_tokens
from support.tiny_gguf import CHAT_TEMPLATE, make_tokenizer
from support.tiny_hf import byte_level_spec, make_model, sentencepiece_spec, write_tokenizer

TEXTS = (
    "Turn on the wifi, please.",
    "  two  spaces,\ttab\nand lines\n\n\nend ",
    "l'été à Zürich coûte 25 €; 日本語のテキスト 👍🏽",
    "He'll say 'I'VE 12345 apples' in 2024-11-20T10:30",
    '{"name": "set_alarm", "arguments": {"hour": 7}}',
    "x",
)
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
BYTE_LEVEL = {**BYTES, "use_regex": True}
LLAMA3: dict[str, Any] = {
    "type": "Sequence",
    "pretokenizers": [
        {
            "type": "Split",
            "pattern": {"Regex": LLAMA3_SPLIT},
            "behavior": "Isolated",
            "invert": False,
        },
        {**BYTES, "use_regex": False},
    ],
}
ODD_SPLIT = {
    "type": "Sequence",
    "pretokenizers": [
        {**LLAMA3["pretokenizers"][0], "pattern": {"Regex": "[a-z]+"}},
        LLAMA3["pretokenizers"][1],
    ],
}
SMOLLM = {
    "type": "Sequence",
    "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
}
METASPACE = {
    "type": "Metaspace",
    "replacement": "\u2581",
    "prepend_scheme": "first",
    "split": False,
}


def llama3_spec() -> dict[str, Any]:
    spec = byte_level_spec(LLAMA3)
    spec["model"]["ignore_merges"] = True
    return spec


def metaspace_spec() -> dict[str, Any]:
    spec = sentencepiece_spec()
    spec["normalizer"] = None
    spec["pre_tokenizer"] = METASPACE
    return spec


@pytest.mark.parametrize(
    ("spec", "pre"),
    [
        (byte_level_spec(BYTE_LEVEL), "gpt-2"),
        (llama3_spec(), "llama-bpe"),
        (byte_level_spec(SMOLLM), "smollm"),
        (sentencepiece_spec(), "default"),
        (metaspace_spec(), "default"),
    ],
)
def test_llama_cpp_splits_text_the_same(spec: dict[str, Any], pre: str, tmp_path: Path) -> None:
    is_sentencepiece = pre == "default"
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_tokenizer(tmp_path, spec, **(names if is_sentencepiece else {}))
    vocabulary = read_vocabulary(tmp_path, 400)
    assert (vocabulary.model, vocabulary.pre) == ("llama" if is_sentencepiece else "gpt2", pre)
    assert vocabulary.add_bos == is_sentencepiece
    path = tmp_path / "model.gguf"
    write_gguf(make_model(vocab_size=400), vocabulary, path, "F16", "tiny")
    open_bundle(path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    # Metaspace adds no space before one that is there; SentencePiece and llama.cpp always do.
    texts = [text.lstrip() if spec["pre_tokenizer"] == METASPACE else text for text in TEXTS]
    assert reference_tokens(path, texts) == [tokenizer.encode(t).ids for t in texts]


def test_the_file_counts_and_not_the_class_named_beside_it(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, byte_level_spec(SMOLLM), tokenizer_class="GPT2Tokenizer")
    expected = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("at 12345").ids
    assert load_tokenizer(tmp_path)("at 12345")["input_ids"] == expected


def test_tokens_have_their_kinds_and_unused_ids_are_filled(tmp_path: Path) -> None:
    spec = byte_level_spec(BYTE_LEVEL)
    next_id = max(spec["model"]["vocab"].values()) + 1
    added = {**spec["added_tokens"][0], "special": False, "content": "<tool>", "id": next_id}
    spec["added_tokens"].append(added)
    write_tokenizer(tmp_path, spec, pad_token="<|pad|>")
    vocabulary = read_vocabulary(tmp_path, next_id + 3)
    normal, control, user_defined, unused = 1, 3, 4, 5
    assert vocabulary.tokens[next_id:] == ("<tool>", f"[PAD{next_id + 1}]", f"[PAD{next_id + 2}]")
    assert vocabulary.types[next_id:] == (user_defined, unused, unused)
    assert vocabulary.types[0] == control
    assert vocabulary.types[next_id - 1] == normal
    assert (vocabulary.bos, vocabulary.eos, vocabulary.pad) == (0, 1, 5)
    assert vocabulary.chat_template == CHAT_TEMPLATE


def test_what_the_file_says_of_the_tokenizer(tmp_path: Path) -> None:
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": None}
    write_tokenizer(tmp_path, sentencepiece_spec(), **names)
    vocabulary = read_vocabulary(tmp_path, 400)
    write_gguf(make_model(vocab_size=400), vocabulary, tmp_path / "model.gguf", "F16", "tiny")
    metadata = GgufFile.open(tmp_path / "model.gguf").metadata
    keys = ("bos_token_id", "eos_token_id", "unknown_token_id", "add_bos_token")
    found = [metadata[f"tokenizer.ggml.{key}"] for key in keys]
    assert found == [1, 2, 0, True]
    assert "tokenizer.chat_template" not in metadata
    assert metadata["tokenizer.ggml.add_space_prefix"] is True


def test_the_model_names_its_end_where_the_tokenizer_does_not(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, byte_level_spec(BYTE_LEVEL), bos_token=None, eos_token=None)
    assert read_vocabulary(tmp_path, 320).eos is None
    (tmp_path / "config.json").write_text('{"bos_token_id": 3, "eos_token_id": [4, 5]}')
    vocabulary = read_vocabulary(tmp_path, 320)
    assert (vocabulary.bos, vocabulary.eos, vocabulary.add_bos) == (3, 4, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre_tokenizer": {**BYTES, "use_regex": False}}, "would not split text.*ByteLevel"),
        ({"pre_tokenizer": {**BYTE_LEVEL, "add_prefix_space": True}}, "would not split text"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "would not split text.*Whitespace"),
        ({"pre_tokenizer": None}, "would not split text"),
        ({"pre_tokenizer": ODD_SPLIT}, r"would not split text.*Split '\[a-z\]\+' \+ ByteLevel"),
        ({"normalizer": {"type": "NFKC"}}, "the normalizer NFKC is not supported"),
    ],
)
def test_refuses_what_llama_cpp_would_split_otherwise(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_tokenizer(tmp_path, {**byte_level_spec(BYTE_LEVEL), **change})
    with pytest.raises(ElastifyError, match=message):
        read_vocabulary(tmp_path, 320)


def test_refuses_other_tokenizers(tmp_path: Path) -> None:
    spec = byte_level_spec(BYTE_LEVEL)
    with pytest.raises(
        ElastifyError, match="token .* has id 1.., but config.json says that vocab_size is 100"
    ):
        write_tokenizer(tmp_path, spec)
        read_vocabulary(tmp_path, 100)
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}
    with pytest.raises(ElastifyError, match="BPE"):
        write_tokenizer(tmp_path, {**spec, "model": unigram})
        read_vocabulary(tmp_path, 320)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 3}))
    with pytest.raises(ElastifyError, match="cannot be read"):
        read_vocabulary(tmp_path, 320)


@pytest.mark.parametrize("identifier", [-1, 320, 99999])
def test_ids_that_are_no_tokens_are_refused(tmp_path: Path, identifier: int) -> None:
    write_tokenizer(tmp_path, json.loads(make_tokenizer().to_str()), eos_token=None)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": identifier}))
    with pytest.raises(ElastifyError, match=f"eos_token_id is {identifier}, not one of the 320"):
        read_vocabulary(tmp_path, 320)
