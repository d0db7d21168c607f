"""llama.cpp itself, through llama-cpp-python, as a reference for files and tokens."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray


def reference_logits(path: Path, tokens: Sequence[int]) -> NDArray[np.float32]:
    """Float32 [tokens, vocabulary] of llama.cpp for the GGUF at `path`."""
    with _opened(path) as llama:
        llama.eval(list(tokens))
        return np.array(llama.scores[: len(tokens)])


def reference_tokens(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """llama.cpp's tokens of each text, special tokens in the text taken as text."""
    with _opened(path) as llama:
        return [llama.tokenize(t.encode(), add_bos=True, special=False) for t in texts]


@contextmanager
def _opened(path: Path) -> Iterator[llama_cpp.Llama]:
    llama = llama_cpp.Llama(
        str(path), n_ctx=128, n_batch=128, n_threads=1, logits_all=True, verbose=False
    )
    with closing(llama):
        yield llama
