"""llama.cpp's declarations against its header; vocabulary and sampler objects."""

import ctypes
import logging
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from pliant.errors import GgmlError, LibraryError
from pliant.ggml import library, llama_declarations
from pliant.ggml.llama import Vocab
from pliant.ggml.llama_declarations import (
    LogitBias,
    ModelParams,
    TokenData,
    TokenDataArray,
    bind,
    check_model_params,
)
from pliant.ggml.llama_sampler import Candidates, GrammarSampler, SamplerChain
from pliant.ggml.log import forward_to_logging
from support.tiny_gguf import make_tiny_gguf

HEADER = library.library_folder().parent.parent / "include" / "llama.h"
needs_header = pytest.mark.skipif(not HEADER.is_file(), reason="the headers are not installed")


@pytest.fixture
def logs() -> None:
    """Go to logging: llama_cpp, imported after pliant loaded the library, prints them."""
    library.load().llama.llama_log_set(forward_to_logging, None)


def header() -> str:
    return re.sub(r"//[^\n]*", "", HEADER.read_text())


def compact(declaration: str) -> str:
    return re.sub(r"\s", "", declaration)


@needs_header
def test_every_comment_is_the_header_prototype() -> None:
    source = Path(llama_declarations.__file__).read_text()
    names = re.findall(r'^    "(llama_\w+)":', source, re.MULTILINE)
    assert len(names) == len(vars(bind()))
    for name in names:
        comment = re.search(rf'((?:    # [^\n]*\n)+)    "{name}"', source)
        assert comment, name
        prototype = re.search(rf"LLAMA_API\s+([^;]*?\b{name}\s*\([^()]*\))\s*;", header())
        assert prototype, name
        assert compact(comment[1].replace("#", "")) == compact(prototype[1])


C_SIZES = {
    "int32_t": ctypes.c_int32,
    "llama_token": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "size_t": ctypes.c_size_t,
    "float": ctypes.c_float,
    "bool": ctypes.c_bool,
    "enum": ctypes.c_int,
    "llama_progress_callback": ctypes.c_void_p,
}


def c_fields(struct: str) -> list[tuple[str, int]]:
    """Names and sizes of a struct's fields, from the header."""
    body = re.search(rf"struct {struct} \{{(.*?)\}}", header(), re.DOTALL)
    assert body, struct
    fields = []
    for declaration in filter(str.strip, body[1].split(";")):
        words = declaration.replace("*", " * ").split()
        type_ = ctypes.c_void_p if "*" in words else C_SIZES[words[0]]
        fields.append((words[-1], ctypes.sizeof(type_)))
    return fields


@needs_header
@pytest.mark.parametrize(
    ("struct", "ours"),
    [
        ("llama_model_params", ModelParams),
        ("llama_token_data", TokenData),
        ("llama_token_data_array", TokenDataArray),
        ("llama_logit_bias", LogitBias),
    ],
)
def test_structs_have_the_fields_of_the_header(struct: str, ours: type[ctypes.Structure]) -> None:
    mine = [(field[0], ctypes.sizeof(field[1])) for field in ours._fields_]
    assert [field for field in mine if field[0] != "guard"] == c_fields(struct)


def test_another_layout_of_the_parameters_is_noticed() -> None:
    params = bind().model_default_params()
    check_model_params(params)
    shifted = bytes(4) + bytes(params)[:-4]
    with pytest.raises(LibraryError, match="another layout"):
        check_model_params(ModelParams.from_buffer_copy(shifted))


def test_a_vocabulary_is_usable_until_closed(tmp_path: Path) -> None:
    with Vocab(make_tiny_gguf(tmp_path / "tiny.gguf")) as vocab:
        assert vocab.size == 320
        tokens = vocab.tokenize("Hello", parse_special=False)
        assert vocab.detokenize(tokens) == b"Hello"
        assert vocab.detokenize([]) == b""
    for use in (lambda: vocab.bos, lambda: vocab.piece(3), lambda: grammar_of(vocab)):
        with pytest.raises(GgmlError, match="closed"):
            use()


def grammar_of(vocab: Vocab) -> GrammarSampler:
    return GrammarSampler(vocab, 'root ::= "a"')


def test_ctrl_c_while_llama_cpp_reports_is_not_lost(
    tmp_path: Path, logs: None, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make_tiny_gguf(tmp_path / "v.gguf")
    before = signal.getsignal(signal.SIGINT)
    press_once = PressCtrlC()
    logging.getLogger("pliant.ggml").addHandler(press_once)
    try:
        with caplog.at_level(logging.DEBUG, "pliant.ggml"), pytest.raises(KeyboardInterrupt):
            Vocab(path)
    finally:
        logging.getLogger("pliant.ggml").removeHandler(press_once)
    assert press_once.is_done and "Exception ignored" not in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


class PressCtrlC(logging.Handler):
    """Does it at the first record."""

    is_done = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self.is_done:
            self.is_done = True
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode elsewhere")
def test_a_file_may_have_a_name_that_is_no_text(tmp_path: Path, logs: None) -> None:
    path = make_tiny_gguf(tmp_path / "v.gguf").rename(tmp_path / "\udcff.gguf")
    with Vocab(path) as vocab:
        assert vocab.size > 0


def test_samplers_apply_in_the_order_they_were_added() -> None:
    logits = np.array([3.0, 2.0, 1.0, 0.0], dtype=np.float32)
    candidates = Candidates(4)
    with SamplerChain(4) as chain:
        chain.add_logit_bias({3: 10.0})
        chain.add_top_k(1)
        chain.add_greedy()
        for _ in range(2):
            candidates.fill(logits)
            chain.apply(candidates)
            assert candidates.selected() == 3
    with pytest.raises(GgmlError, match="closed"):
        chain.apply(candidates)


def test_candidates_check_what_they_are_given() -> None:
    candidates = Candidates(4)
    with pytest.raises(GgmlError, match="shape"):
        candidates.fill(np.zeros(5, dtype=np.float32))
    candidates.fill(np.array([0, 5, -np.inf, 1], dtype=np.float32))
    assert candidates.any_left()
    assert candidates.likeliest() == 1
    with pytest.raises(GgmlError, match="selected no token"):
        candidates.selected()
    candidates.fill_one(2)
    assert candidates.likeliest() == 2
