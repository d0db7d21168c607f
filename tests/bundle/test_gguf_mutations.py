"""Damaged GGUF files: each opens or is explained, and none that opens harms llama.cpp."""

import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pliant.bundle import open_bundle
from pliant.errors import BundleError
from support.mutations import mutations
from support.raw_gguf import RawGguf, header_size, llama_draft, sentencepiece_draft

MAX_MEMORY = 4 << 20


def opens_or_explains(path: Path) -> None:
    tracemalloc.start()
    try:
        open_bundle(path)
    except BundleError as error:
        assert str(error)
        assert len(str(error)) < 2000
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MAX_MEMORY


@pytest.mark.parametrize("draft", [llama_draft, sentencepiece_draft])
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_mutated_file_opens_or_is_refused(
    tmp_path: Path, draft: Callable[[], RawGguf], data: st.DataObject
) -> None:
    path = tmp_path / "m.gguf"
    whole = draft().encode()
    path.write_bytes(data.draw(mutations(whole, header_size(whole))))
    opens_or_explains(path)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=256))
def test_noise_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.gguf"
    path.write_bytes(content)
    with pytest.raises(BundleError):
        open_bundle(path)


LOAD_VOCABULARIES = """
import ctypes, sys
import llama_cpp as llama

params = llama.llama_model_default_params()
params.vocab_only = True
tokens = (llama.llama_token * 256)()
piece = ctypes.create_string_buffer(256)
for path in sys.argv[1:]:
    model = llama.llama_model_load_from_file(path.encode(), params)
    if not model:
        continue
    vocab = llama.llama_model_get_vocab(model)
    for text in ("ab a\\n".encode(), "h\u00e9 \u65e5<s>\\0".encode(), b"\\xff\\xfe"):
        llama.llama_tokenize(vocab, text, len(text), tokens, 256, True, True)
    for token in range(llama.llama_vocab_n_tokens(vocab)):
        llama.llama_token_to_piece(vocab, token, piece, 256, 0, True)
    llama.llama_model_free(model)
print("survived")
"""


def test_what_opens_does_not_end_llama_cpp(tmp_path: Path) -> None:
    chance = random.Random(0)
    opened = []
    while len(opened) < 120:
        data = bytearray(chance.choice([llama_draft, sentencepiece_draft])().encode())
        at = chance.randrange(24, header_size(data))
        data[at] = chance.choice([data[at] ^ 1 << chance.randrange(8), chance.randrange(256)])
        path = tmp_path / f"{len(opened)}.gguf"
        path.write_bytes(data)
        try:
            open_bundle(path)
        except BundleError:
            continue
        opened.append(str(path))
    child = subprocess.run(
        [sys.executable, "-c", LOAD_VOCABULARIES, *opened], capture_output=True, text=True
    )
    assert (child.returncode, child.stdout) == (0, "survived\n"), child.stderr[-2000:]
