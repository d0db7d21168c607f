"""llama.cpp itself, as a reference for logits, files and tokens."""

import ctypes
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import llama_cpp
import numpy as np

from pliant.ggml.library import load


class LlamaReference:
    """A model run by llama.cpp on the CPU; `repack` lets it rearrange weights as it does.

    `adapter` is a LoRA file to apply.
    """

    def __init__(
        self,
        path: Path,
        *,
        repack: bool = False,
        threads: int = 1,
        context: int = 1024,
        adapter: Path | None = None,
    ) -> None:
        load()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = repack
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self._model, f"llama.cpp does not read {path}"
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = context
        options.n_batch = options.n_ubatch = 512
        options.n_threads = options.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        if adapter is not None:
            lora = llama_cpp.llama_adapter_lora_init(self._model, str(adapter).encode())
            assert lora, f"llama.cpp does not read {adapter}"
            loras = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(lora)
            scales = (ctypes.c_float * 1)(1.0)
            assert llama_cpp.llama_set_adapters_lora(self._context, loras, 1, scales) == 0
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocab)

    def logits(self, tokens: Sequence[int], start: int = 0) -> np.ndarray:
        """Logits [len(tokens), vocab] of tokens that follow the `start` computed before."""
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self._context), 0, start, -1)
        count = len(tokens)
        batch = llama_cpp.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = start + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = 1
        assert llama_cpp.llama_decode(self._context, batch) == 0
        pointer = llama_cpp.llama_get_logits(self._context)
        logits = np.ctypeslib.as_array(pointer, (count, self._vocab_size)).copy()
        llama_cpp.llama_batch_free(batch)
        return logits

    def close(self) -> None:
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)


def reference_logits(path: Path, tokens: Sequence[int]) -> np.ndarray:
    """Float32 [tokens, vocabulary] of llama.cpp for the GGUF at `path`."""
    with closing(LlamaReference(path)) as reference:
        return reference.logits(tokens)


def reference_tokens(path: Path, texts: Sequence[str]) -> list[list[int]]:
    """llama.cpp's tokens of each text, special tokens in the text taken as text."""
    with closing(llama_cpp.Llama(str(path), vocab_only=True, verbose=False)) as llama:
        return [llama.tokenize(t.encode(), add_bos=True, special=False) for t in texts]
