"""Choose the next token from logits, through llama.cpp's samplers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from pliant.engine import gbnf
from pliant.engine.json_schema import schema_to_gbnf
from pliant.engine.tokenizer import Tokenizer
from pliant.errors import GgmlError, SamplingError
from pliant.ggml.llama_sampler import Candidates, GrammarSampler, SamplerChain

MAX_BIASED_TOKENS = 1024
MAX_BIAS = 100.0
# llama.cpp takes its largest seed for "no seed", so ours end below it.
MAX_SEED = 2**32 - 2

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Range:
    """Values an option takes: low..high, `low` itself only if `low_allowed`."""

    low: float
    high: float
    low_allowed: bool = True

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high and (self.low_allowed or value > self.low)

    def __str__(self) -> str:
        return f"{'from' if self.low_allowed else 'above'} {self.low} to {self.high}"


def _number(default: float, low: float, high: float, *, low_allowed: bool = True) -> Any:
    return field(default=default, metadata={"range": Range(low, high, low_allowed)})


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen; the default is greedy. Raises SamplingError for values out of range.

    temperature 0 always takes the likeliest token; top_k 0, top_p 1 and min_p 0 keep all tokens;
    repeat_penalty 1 and the other penalties 0 change nothing, and look at the last
    `penalty_last_n` tokens of prompt and answer; `logit_bias` maps token ids to -100..100;
    without `seed` every call draws anew. `grammar` (GBNF) or `json_schema` (an object or its
    text) restrict the answer.
    """

    temperature: float = _number(0.0, 0, 5)
    top_k: int = _number(0, 0, 1_000_000)
    top_p: float = _number(1.0, 0, 1, low_allowed=False)
    min_p: float = _number(0.0, 0, 1)
    repeat_penalty: float = _number(1.0, 0, 10, low_allowed=False)
    presence_penalty: float = _number(0.0, -2, 2)
    frequency_penalty: float = _number(0.0, -2, 2)
    penalty_last_n: int = _number(64, 0, 4096)
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = field(default=None, metadata={"range": Range(0, MAX_SEED)})
    grammar: str | None = None
    json_schema: Mapping[str, Any] | str | None = None

    def __post_init__(self) -> None:
        for option in fields(self):
            if "range" in option.metadata:
                _check_range(option, getattr(self, option.name))
        _check_bias(self.logit_bias)
        if self.grammar is not None and self.json_schema is not None:
            raise SamplingError("give grammar or json_schema, not both")
        if not isinstance(self.grammar, (str, type(None))):
            raise SamplingError("grammar is a text in GBNF")

    @property
    def penalizes(self) -> bool:
        penalties = (self.repeat_penalty, self.presence_penalty, self.frequency_penalty)
        return self.penalty_last_n > 0 and penalties != (1, 0, 0)

    def gbnf(self) -> str | None:
        """The grammar to follow, checked; raises SamplingError if it or the schema is not one."""
        if self.json_schema is not None:
            grammar = schema_to_gbnf(self.json_schema)
        elif self.grammar is not None:
            grammar = self.grammar
        else:
            return None
        gbnf.check(grammar)
        return grammar


class Sampler:
    """Samples one generation: `sample` and `accept` in turn, then close()."""

    def __init__(self, params: SamplingParams, tokenizer: Tokenizer) -> None:
        """Raises SamplingError if the grammar is not one or a biased token does not exist."""
        self._eog = tokenizer.eog
        self._grammar: GrammarSampler | None = None
        self._chain: SamplerChain | None = None
        self._candidates: Candidates | None = None
        beyond = [token for token in params.logit_bias if token >= tokenizer.size]
        if beyond:
            raise SamplingError(f"logit_bias names token {beyond[0]} of {tokenizer.size}")
        grammar = params.gbnf()
        if grammar is not None:
            self._grammar = GrammarSampler(tokenizer.vocab, grammar)
        if params.temperature > 0 or params.penalizes or params.logit_bias:
            self._chain = _chain(params, tokenizer.size)
        if self._grammar or self._chain:
            self._candidates = Candidates(tokenizer.size)
        self._history = params.penalty_last_n if params.penalizes else 0

    def close(self) -> None:
        for sampler in (self._grammar, self._chain):
            if sampler:
                sampler.close()

    def prime(self, prompt: Sequence[int]) -> None:
        """Let the penalties know the end of the prompt."""
        if self._chain and self._history:
            for token in prompt[-self._history :]:
                self._chain.accept(token)

    def sample(self, logits: Logits) -> int | None:
        """The next token for `logits` [vocab]; None if the grammar allows none.

        Raises GgmlError for logits that are not numbers.
        """
        likeliest = _likeliest(logits)
        if self._candidates is None:
            return likeliest
        if self._chain is None and self._is_allowed(likeliest):
            return likeliest
        self._candidates.fill(logits)
        if self._grammar is not None:
            self._grammar.apply(self._candidates)
            if not self._candidates.any_left():
                return None
        if self._chain is None:
            return self._candidates.likeliest()
        self._chain.apply(self._candidates)
        return self._candidates.selected()

    def accept(self, token: int) -> None:
        """Tell the samplers what was appended; `token` must come from `sample`."""
        if token in self._eog:
            return
        if self._grammar:
            self._grammar.accept(token)
        if self._chain:
            self._chain.accept(token)

    def _is_allowed(self, token: int) -> bool:
        """Masking a whole vocabulary costs milliseconds; asking about one token does not."""
        assert self._candidates is not None
        assert self._grammar is not None
        self._candidates.fill_one(token)
        self._grammar.apply(self._candidates)
        return self._candidates.any_left()


def log_softmax(logits: Logits) -> Logits:
    """Natural log-probabilities along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Logits = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _likeliest(logits: Logits) -> int:
    """Raises GgmlError for logits that are not numbers: llama.cpp sorts them without bounds."""
    token = int(np.argmax(logits))
    # argmax finds the first NaN if there is one.
    if not math.isfinite(logits[token]):
        raise GgmlError("the model computed logits that are not numbers")
    return token


def _chain(params: SamplingParams, vocab_size: int) -> SamplerChain:
    """The order is that of llama.cpp's own programs."""
    chain = SamplerChain(vocab_size)
    if params.logit_bias:
        chain.add_logit_bias(params.logit_bias)
    if params.penalizes:
        chain.add_penalties(
            params.penalty_last_n,
            params.repeat_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        )
    if params.temperature == 0:
        chain.add_greedy()
        return chain
    if params.top_k > 0:
        chain.add_top_k(params.top_k)
    if params.top_p < 1:
        chain.add_top_p(params.top_p)
    if params.min_p > 0:
        chain.add_min_p(params.min_p)
    chain.add_temperature(params.temperature)
    chain.add_distribution(MAX_SEED + 1 if params.seed is None else params.seed)
    return chain


def _check_range(option: Field[Any], value: Any) -> None:
    if value is None and option.default is None:
        return
    allowed: Range = option.metadata["range"]
    whole = isinstance(option.default, int) or option.default is None
    kinds = int if whole else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool) or not allowed.holds(value):
        what = "a whole number" if whole else "a number"
        raise SamplingError(f"{option.name} is {what} {allowed}, not {value!r}")


def _check_bias(bias: Mapping[int, float]) -> None:
    if not isinstance(bias, Mapping):
        raise SamplingError("logit_bias maps token ids to numbers")
    if len(bias) > MAX_BIASED_TOKENS:
        raise SamplingError(f"logit_bias has {len(bias)} tokens; at most {MAX_BIASED_TOKENS}")
    for token, value in bias.items():
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise SamplingError(f"logit_bias names the token {token!r}, which is no token id")
        number = isinstance(value, (int, float)) and math.isfinite(value)
        if not number or abs(value) > MAX_BIAS:
            raise SamplingError(
                f"logit_bias[{token}] is a number from {-MAX_BIAS:g} to {MAX_BIAS:g}, not {value!r}"
            )
