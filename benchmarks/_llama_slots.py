"""llama.cpp's own way to keep contexts: save a sequence's state in a file, load it again."""

from __future__ import annotations

import ctypes
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 512
REPEATS = 2


def measure_loading(
    model_path: Path, lengths: Sequence[int], context_length: int, threads: int
) -> Callable[[int], float]:
    """Milliseconds that loading a context of a length takes from a file in memory, interpolated
    between `lengths`."""
    import llama_cpp as lib

    lib.llama_log_set(_silent(), ctypes.c_void_p())
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(str(model_path).encode(), params)
    options = lib.llama_context_default_params()
    options.n_ctx = context_length
    options.n_batch = options.n_ubatch = BATCH
    options.n_threads = options.n_threads_batch = threads
    context = lib.llama_init_from_model(model, options)
    vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    tokens = np.random.default_rng(1).integers(5, vocab, context_length).tolist()
    times, done = [0.0], 0
    with tempfile.TemporaryDirectory() as folder:
        for length in sorted(lengths):
            done = _decode(lib, context, tokens, done, min(length, context_length))
            times.append(_time_loading(lib, context, tokens[:done], Path(folder) / "state"))
    lib.llama_free(context)
    lib.llama_model_free(model)
    known = [0, *sorted(lengths)]
    return lambda length: float(np.interp(length, known, times))


@cache
def _silent() -> Any:
    """Kept for good: llama.cpp calls it as long as the process lives."""
    import llama_cpp as lib

    return lib.llama_log_callback(lambda *_: None)


def _decode(lib, context, tokens: list[int], start: int, stop: int) -> int:  # type: ignore[no-untyped-def]
    batch = lib.llama_batch_init(BATCH, 0, 1)
    for first in range(start, stop, BATCH):
        count = min(BATCH, stop - first)
        batch.n_tokens = count
        for index in range(count):
            batch.token[index] = tokens[first + index]
            batch.pos[index] = first + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = index == count - 1
        if lib.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")
    lib.llama_batch_free(batch)
    return stop


def _time_loading(lib, context, tokens: list[int], path: Path) -> float:  # type: ignore[no-untyped-def]
    array = (lib.llama_token * len(tokens))(*tokens)
    out, count = (lib.llama_token * len(tokens))(), ctypes.c_size_t()
    name = str(path).encode()
    if not lib.llama_state_seq_save_file(context, name, 0, array, len(tokens)):
        raise RuntimeError("llama_state_seq_save_file failed")
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        loaded = lib.llama_state_seq_load_file(
            context, name, 0, out, len(tokens), ctypes.byref(count)
        )
        times.append(1000 * (time.perf_counter() - begin))
        if not loaded:
            raise RuntimeError("llama_state_seq_load_file failed")
    return min(times)
