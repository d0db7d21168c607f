"""What is checked of a vocabulary before llama.cpp loads it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pliant.bundle import describe, open_bundle
from pliant.errors import BundleError, CorruptFileError, UnsupportedModelError
from support.raw_gguf import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U32,
    RawGguf,
    llama_draft,
    sentencepiece_draft,
)

TOKENIZER = "tokenizer.ggml."


def change(key: str, kind: int, value: object) -> Callable[[RawGguf], object]:
    return lambda draft: draft.metadata.update({key: (kind, value)})


def drop(key: str) -> Callable[[RawGguf], object]:
    return lambda draft: draft.metadata.pop(key)


def strings(key: str, *items: str | bytes) -> Callable[[RawGguf], object]:
    return change(TOKENIZER + key, ARRAY, (STRING, list(items)))


def item(key: str, index: int, value: object) -> Callable[[RawGguf], object]:
    def make_wrong(draft: RawGguf) -> None:
        draft.metadata[TOKENIZER + key][1][1][index] = value

    return make_wrong


def no_bos(draft: RawGguf) -> None:
    del draft.metadata[TOKENIZER + "bos_token_id"], draft.metadata[TOKENIZER + "add_bos_token"]


BYTE_LEVEL: list[tuple[Callable[[RawGguf], object], type[BundleError], str]] = [
    (drop(TOKENIZER + "model"), CorruptFileError, "model is missing"),
    (change(TOKENIZER + "model", STRING, "bert"), UnsupportedModelError, "'bert'"),
    (change(TOKENIZER + "model", U32, 1), CorruptFileError, "not text"),
    (change(TOKENIZER + "pre", U32, 1), CorruptFileError, "not text"),
    (change("tokenizer.chat_template", U32, 1), CorruptFileError, "not text"),
    (drop(TOKENIZER + "tokens"), CorruptFileError, "tokens is missing"),
    (change(TOKENIZER + "tokens", ARRAY, (U32, [1, 2, 3, 4])), CorruptFileError, "strings"),
    (strings("tokens", "a", "b", "c"), CorruptFileError, "3 tokens, .* 4 rows"),
    (strings("tokens", "a", "b", "c", "a"), CorruptFileError, "same text"),
    (strings("tokens", "a", "", "[EMPTY_1]", "b"), CorruptFileError, "same text"),
    (strings("tokens", "a", "b", "c", "b\0d"), CorruptFileError, "NUL"),
    (strings("tokens", "a", b"\xc3", b"\xa9", "b"), CorruptFileError, "UTF-8"),
    (change(TOKENIZER + "token_type", ARRAY, (I32, [1] * 3)), CorruptFileError, "token_type"),
    (change(TOKENIZER + "token_type", ARRAY, (U32, [1] * 4)), CorruptFileError, "token_type"),
    (change(TOKENIZER + "scores", ARRAY, (F32, [0.0] * 3)), CorruptFileError, "scores"),
    (change(TOKENIZER + "scores", F32, 1.0), CorruptFileError, "scores"),
    (drop(TOKENIZER + "merges"), CorruptFileError, "merges is missing"),
    (strings("merges", "a b", "ab"), CorruptFileError, "'ab' is not two pieces"),
    (strings("merges", " ab"), CorruptFileError, "not two pieces"),
    (strings("merges", "ab "), CorruptFileError, "not two pieces"),
    (change(TOKENIZER + "eos_token_id", U32, 4), CorruptFileError, "eos_token_id is 4"),
    (change(TOKENIZER + "eot_token_id", I32, -1), CorruptFileError, "eot_token_id is -1"),
    (change(TOKENIZER + "mask_token_id", STRING, "0"), CorruptFileError, "mask_token_id"),
    # llama.cpp would take 11, which this vocabulary does not reach.
    (no_bos, CorruptFileError, "bos_token_id is 11"),
    (drop(TOKENIZER + "bos_token_id"), CorruptFileError, "add_bos_token is set"),
]
SENTENCEPIECE: list[tuple[Callable[[RawGguf], object], type[BundleError], str]] = [
    (drop(TOKENIZER + "scores"), CorruptFileError, "no scores"),
    (drop(TOKENIZER + "token_type"), CorruptFileError, "no types"),
    (item("tokens", 10, "x"), CorruptFileError, "token 10 is a byte"),
    (item("token_type", -1, 6), CorruptFileError, "is a byte"),
]


@pytest.mark.parametrize(
    ("make_draft", "case"),
    [
        *((llama_draft, case) for case in BYTE_LEVEL),
        *((sentencepiece_draft, case) for case in SENTENCEPIECE),
    ],
)
def test_refuses(
    tmp_path: Path,
    make_draft: Callable[[], RawGguf],
    case: tuple[Callable[[RawGguf], object], type[BundleError], str],
) -> None:
    make_wrong, error, message = case
    draft = make_draft()
    make_wrong(draft)
    with pytest.raises(error, match=message):
        open_bundle(draft.write(tmp_path / "m.gguf"))


def test_refuses_a_missing_byte(tmp_path: Path) -> None:
    draft = sentencepiece_draft()
    item("tokens", 10, "x")(draft)
    item("token_type", 10, 1)(draft)
    with pytest.raises(CorruptFileError, match="1 byte tokens are missing"):
        open_bundle(draft.write(tmp_path / "m.gguf"))


def test_a_sentencepiece_model_has_default_ids(tmp_path: Path) -> None:
    draft = sentencepiece_draft()
    del draft.metadata[TOKENIZER + "bos_token_id"]
    assert draft.metadata[TOKENIZER + "add_bos_token"] == (BOOL, 1)
    assert open_bundle(draft.write(tmp_path / "m.gguf")).architecture.vocab_size == 260


def test_a_model_may_lack_a_vocabulary(tmp_path: Path) -> None:
    draft = llama_draft()
    draft.metadata = {k: v for k, v in draft.metadata.items() if not k.startswith("tokenizer.")}
    draft.metadata[TOKENIZER + "model"] = (STRING, "no_vocab")
    bundle = open_bundle(draft.write(tmp_path / "m.gguf"))
    assert bundle.architecture.vocab_size == 4
    assert describe(bundle).tokenizer == {
        "model": "no_vocab",
        "pre": None,
        "tokens": 0,
        "has_chat_template": False,
    }


def test_describes_the_tokenizer(tmp_path: Path) -> None:
    draft = sentencepiece_draft()
    draft.metadata["tokenizer.chat_template"] = (STRING, "{{ messages }}")
    assert describe(open_bundle(draft.write(tmp_path / "m.gguf"))).tokenizer == {
        "model": "llama",
        "pre": None,
        "tokens": 260,
        "has_chat_template": True,
    }
