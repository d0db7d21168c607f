"""Tokens against the tokenizers package, against llama.cpp's own binding, and back to text."""

from collections.abc import Iterator
from pathlib import Path

import gguf
import llama_cpp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.engine.chat import Piece
from pliant.engine.tokenizer import Tokenizer
from pliant.errors import CorruptFileError, GgmlError, RequestError
from pliant.ggml.llama import MAX_RUN
from support.sentencepiece_gguf import make_sentencepiece_gguf
from support.tiny_gguf import BOS, CORPUS, EOS, SPECIAL_TOKENS, make_tiny_gguf, make_tokenizer

texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("<|end>"))


@pytest.fixture(scope="module")
def reference(tiny_path: Path) -> Iterator[llama_cpp.Llama]:
    model = llama_cpp.Llama(str(tiny_path), vocab_only=True, verbose=False)
    yield model
    model.close()


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tokenizer]:
    path = make_sentencepiece_gguf(tmp_path_factory.mktemp("spm") / "spm.gguf")
    with Tokenizer(path) as tokenizer:
        yield tokenizer


@given(texts)
def test_equals_the_tokenizers_package(tokenizer: Tokenizer, text: str) -> None:
    if not any(name in text for name in SPECIAL_TOKENS):
        assert tokenizer.encode(text, add_bos=False) == make_tokenizer().encode(text).ids


@pytest.mark.parametrize("text", [*CORPUS, "<|user|>\nhi<|end|>", "<|unused1|>", "\n\n  \t x"])
@pytest.mark.parametrize("parse_special", [True, False])
def test_equals_llama_cpp(
    tokenizer: Tokenizer, reference: llama_cpp.Llama, text: str, parse_special: bool
) -> None:
    expected = reference.tokenize(text.encode(), add_bos=False, special=parse_special)
    assert tokenizer.encode(text, add_bos=False, parse_special=parse_special) == expected
    assert tokenizer.decode(expected, special=True) == text


@given(texts)
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text, add_bos=False)
    assert tokenizer.decode(tokens) == text
    assert b"".join(map(tokenizer.piece, tokens)).decode() == text


@given(texts)
def test_text_from_outside_never_holds_control_tokens(tokenizer: Tokenizer, text: str) -> None:
    assert not set(tokenizer.encode(text, add_bos=False)) & set(range(len(SPECIAL_TOKENS)))


def test_knows_the_special_tokens(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos, tokenizer.eos, tokenizer.adds_bos) == (BOS, EOS, True)
    assert tokenizer.eog == {EOS}
    assert set(tokenizer.special_texts) == set(SPECIAL_TOKENS)
    assert tokenizer.text(EOS) == "<|end|>"
    assert tokenizer.text(None) == ""
    assert tokenizer.piece(EOS) == b""


def test_bos_comes_first_and_once(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("")[:1] == [BOS]
    assert tokenizer.encode_pieces([Piece("<|user|>", True)])[0] == BOS
    assert tokenizer.encode_pieces([Piece("<|begin|><|user|>", True)]).count(BOS) == 1


def test_pieces_join_to_the_tokens_of_the_whole(tokenizer: Tokenizer) -> None:
    pieces = [Piece("<|user|>", True), Piece("\na<|end|>b", False), Piece("<|end|>\n", True)]
    tokens = tokenizer.encode_pieces(pieces)
    assert tokens.count(EOS) == 1
    assert tokenizer.decode(tokens, special=True) == "<|begin|><|user|>\na<|end|>b<|end|>\n"


@given(texts, texts.filter(bool))
def test_a_continuation_decodes_to_itself(tokenizer: Tokenizer, text: str, more: str) -> None:
    assert tokenizer.decode(tokenizer.encode_continuation(text, more)) == more


@pytest.mark.parametrize("text", ["the an", " the  on", "zß\n", "<s>the</s>"])
def test_sentencepiece_vocabularies(sentencepiece: Tokenizer, text: str) -> None:
    tokens = sentencepiece.encode(text)
    assert tokens[0] == 1
    assert not set(tokens[1:]) & {0, 1, 2}
    assert b"".join(map(sentencepiece.piece, tokens)).decode() == " " + text
    assert sentencepiece.decode(tokens[1:]) == text


def test_a_sentencepiece_continuation_gets_no_space_of_its_own(sentencepiece: Tokenizer) -> None:
    tokens = sentencepiece.encode_continuation("the", " on")
    assert [sentencepiece.piece(token) for token in tokens] == [b" on"]


@pytest.mark.parametrize("character", ["a", "!", " ", "\n", "é"])
def test_very_long_words_do_not_end_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, character: str
) -> None:
    add_tokenizer_pre = gguf.GGUFWriter.add_tokenizer_pre
    monkeypatch.setattr(
        gguf.GGUFWriter,
        "add_tokenizer_pre",
        lambda writer, _: add_tokenizer_pre(writer, "deepseek-llm"),
    )
    with Tokenizer(make_tiny_gguf(tmp_path / "x.gguf")) as tokenizer:
        text = "x " + character * 100_000
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_long_words_are_not_cut_inside_a_control_token(tokenizer: Tokenizer) -> None:
    for length in range(MAX_RUN - 10, MAX_RUN + 3):
        tokens = tokenizer.encode("x" * length + "<|end|>", parse_special=True)
        assert tokens[-1] == EOS


def test_refuses_lone_surrogates_and_unknown_tokens(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="Unicode"):
        tokenizer.encode("\ud800")
    for token in (-1, tokenizer.size, 2**31):
        with pytest.raises(RequestError, match="not in the vocabulary"):
            tokenizer.decode([token])
        with pytest.raises(RequestError, match="not in the vocabulary"):
            tokenizer.piece(token)


def test_refuses_a_file_without_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    for name in ("bad.gguf", "missing.gguf"):
        with pytest.raises(CorruptFileError):
            Tokenizer(tmp_path / name)


def test_says_that_it_is_closed(tiny_path: Path) -> None:
    tokenizer = Tokenizer(tiny_path)
    tokenizer.close()
    tokenizer.close()
    with pytest.raises(GgmlError, match="closed"):
        tokenizer.encode("x")
