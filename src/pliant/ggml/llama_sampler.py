"""llama.cpp's samplers as owner objects, and the candidate array they work on."""

import ctypes
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pliant.errors import GgmlError, SamplingError
from pliant.ggml.llama import Vocab
from pliant.ggml.llama_declarations import (
    ChainParams,
    LogitBias,
    TokenData,
    TokenDataArray,
    bind,
)
from pliant.ggml.owner import Owner

_CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])


class Candidates:
    """Tokens with their logits, in one buffer that is filled anew for every sampling step."""

    def __init__(self, vocab_size: int) -> None:
        self._ids = np.arange(vocab_size, dtype=np.int32)
        self._items: npt.NDArray[Any] = np.zeros(vocab_size, dtype=_CANDIDATE)
        self._data = ctypes.cast(self._items.ctypes.data, ctypes.POINTER(TokenData))
        self._array = TokenDataArray()
        self.reference = ctypes.byref(self._array)

    def fill(self, logits: npt.NDArray[np.float32]) -> None:
        """Every token of the vocabulary; `logits` has shape [vocab]."""
        if logits.shape != self._ids.shape:
            raise GgmlError(f"logits of shape {logits.shape} for {len(self._ids)} tokens")
        self._items["id"] = self._ids
        self._items["logit"] = logits
        self._reset(len(self._ids))

    def fill_one(self, token: int) -> None:
        """Only `token`, with logit 0."""
        self._items[0] = (token, 0.0, 0.0)
        self._reset(1)

    def any_left(self) -> bool:
        """Whether a sampler that only masks (a grammar) left a token with a finite logit."""
        count = self._array.size
        return bool(np.isfinite(self._items["logit"][:count]).any())

    def likeliest(self) -> int:
        """The token with the highest logit, of those not masked."""
        return int(self._items["id"][self._items["logit"][: self._array.size].argmax()])

    def selected(self) -> int:
        """The token chosen by the last sampler of a chain.

        Raises GgmlError if it chose none, one that is masked (a grammar aborts on accepting it)
        or one whose logit is not a number.
        """
        index = self._array.selected
        if not 0 <= index < self._array.size:
            raise GgmlError("the sampler chain selected no token")
        item = self._array.data[index]
        if not math.isfinite(item.logit):
            raise GgmlError(f"the sampler chain selected token {item.id} of logit {item.logit}")
        return int(item.id)

    def _reset(self, count: int) -> None:
        self._array.data = self._data
        self._array.size = count
        self._array.selected = -1
        self._array.sorted = False


class NativeSampler(Owner):
    """Owns one `llama_sampler` (a chain owns what was added to it)."""

    def __init__(self, address: int) -> None:
        self._c = bind()
        self._own(address, self._c.sampler_free, "llama.cpp could not make a sampler")

    def apply(self, candidates: Candidates) -> None:
        self._c.sampler_apply(self.address, candidates.reference)

    def accept(self, token: int) -> None:
        """Tell it what was chosen. A grammar must allow `token`: llama.cpp aborts if not."""
        self._c.sampler_accept(self.address, token)


class GrammarSampler(NativeSampler):
    """Masks what a GBNF grammar does not allow next; the vocabulary must outlive it."""

    def __init__(self, vocab: Vocab, grammar: str) -> None:
        """`grammar` must have passed `pliant.engine.gbnf.check`: some kill the process here.

        Raises SamplingError if llama.cpp does not accept it.
        """
        address = bind().sampler_init_grammar(vocab.address, grammar.encode(), b"root")
        if not address:
            raise SamplingError("llama.cpp does not accept the grammar")
        super().__init__(address)


class SamplerChain(NativeSampler):
    """Samplers applied one after another, in the order they are added."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__(bind().sampler_chain_init(ChainParams(no_perf=True)))
        self._vocab_size = vocab_size

    def add_logit_bias(self, bias: Mapping[int, float]) -> None:
        items = (LogitBias * len(bias))(*(LogitBias(token, value) for token, value in bias.items()))
        self._add(self._c.sampler_init_logit_bias(self._vocab_size, len(bias), items))

    def add_penalties(self, last_n: int, repeat: float, frequency: float, presence: float) -> None:
        self._add(
            self._c.sampler_init_penalties(self._vocab_size, last_n, repeat, frequency, presence)
        )

    def add_top_k(self, k: int) -> None:
        self._add(self._c.sampler_init_top_k(k))

    def add_top_p(self, p: float) -> None:
        self._add(self._c.sampler_init_top_p(p, 1))

    def add_min_p(self, p: float) -> None:
        self._add(self._c.sampler_init_min_p(p, 1))

    def add_temperature(self, temperature: float) -> None:
        self._add(self._c.sampler_init_temp(temperature))

    def add_distribution(self, seed: int) -> None:
        self._add(self._c.sampler_init_dist(seed))

    def add_greedy(self) -> None:
        self._add(self._c.sampler_init_greedy())

    def _add(self, sampler: int | None) -> None:
        if not sampler:
            raise GgmlError("llama.cpp could not make a sampler")
        self._c.sampler_chain_add(self.address, sampler)
