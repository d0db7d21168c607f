"""The weights of a tiny language model: tensors over the mapped file, none copied."""

from __future__ import annotations

import numpy as np

from pliant.ggml.context import Context
from pliant.ggml.memory import Buffer
from pliant.ggml.tensor import Tensor
from pliant.tlm.format import TlmFile


class TlmWeights:
    """Owns the mapping; graphs that use the tensors must not outlive it."""

    def __init__(self, file: TlmFile) -> None:
        infos = file.gguf.tensors
        self._mapping = Buffer.over(np.memmap(file.gguf.path, dtype=np.uint8, mode="r"))
        self._context = Context(max_tensors=len(infos))
        self._tensors: dict[str, Tensor] = {}
        for name, info in infos.items():
            tensor = self._context.new_tensor(info.type, *info.shape)
            self._mapping.place(tensor, info.offset)
            self._tensors[name] = tensor

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def close(self) -> None:
        self._context.close()
        self._mapping.close()
