"""Sampling against a plain-Python definition of every option."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.engine.sampling import MAX_SEED, Sampler, SamplingParams, log_softmax
from pliant.engine.tokenizer import Tokenizer
from pliant.errors import GgmlError, SamplingError

DRAWS = 3000


@pytest.fixture
def logits(tokenizer: Tokenizer) -> np.ndarray:
    """Thirty likely tokens with clear gaps between their probabilities; the rest unlikely."""
    values = np.full(tokenizer.size, -30, dtype=np.float32)
    values[100:130] = np.linspace(3, -3, 30) + np.tile([0.0, 0.05, -0.05], 10)
    return values


def softmax(logits: Mapping[int, float]) -> dict[int, float]:
    top = max(logits.values())
    weights = {token: math.exp(value - top) for token, value in logits.items()}
    total = sum(weights.values())
    return {token: weight / total for token, weight in weights.items()}


def expected_distribution(logits: np.ndarray, params: SamplingParams) -> dict[int, float]:
    ranked = dict(sorted(enumerate(map(float, logits)), key=lambda item: -item[1]))
    kept = dict(list(ranked.items())[: params.top_k or None])
    probabilities = softmax(kept)
    total = 0.0
    for token in list(kept):
        if total >= params.top_p:
            del kept[token]
        total += probabilities[token]
    probabilities = softmax(kept)
    limit = params.min_p * max(probabilities.values())
    kept = {token: value for token, value in kept.items() if probabilities[token] >= limit}
    return softmax({token: value / params.temperature for token, value in kept.items()})


def draws(tokenizer: Tokenizer, logits: np.ndarray, params: SamplingParams, count: int) -> list:
    sampler = Sampler(params, tokenizer)
    try:
        return [sampler.sample(logits) for _ in range(count)]
    finally:
        sampler.close()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 5},
        {"temperature": 1.0, "top_p": 0.6},
        {"temperature": 1.5, "min_p": 0.2},
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.1},
    ],
)
def test_tokens_come_as_often_as_they_should(
    tokenizer: Tokenizer, logits: np.ndarray, options: dict[str, Any]
) -> None:
    params = SamplingParams(**options, seed=7)
    expected = expected_distribution(logits, params)
    found = draws(tokenizer, logits, params, DRAWS)
    likely = {token for token, probability in expected.items() if probability * DRAWS > 0.01}
    assert set(found) <= likely
    distance = sum(abs(p - found.count(token) / DRAWS) for token, p in expected.items()) / 2
    assert distance < 0.05


def test_greedy_is_the_likeliest_token_with_and_without_a_chain(
    tokenizer: Tokenizer, logits: np.ndarray
) -> None:
    ties = np.zeros_like(logits)
    for values in (logits, ties, -logits):
        [plain] = draws(tokenizer, values, SamplingParams(), 1)
        [chained] = draws(tokenizer, values, SamplingParams(logit_bias={0: 0.0}), 1)
        assert plain == chained == int(np.argmax(values))


def test_penalties_follow_their_definition(tokenizer: Tokenizer) -> None:
    random = np.random.default_rng(3)
    params = SamplingParams(
        repeat_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2, penalty_last_n=8
    )
    sampler = Sampler(params, tokenizer)
    history = [int(token) for token in random.integers(2, 12, 20)]
    sampler.prime(history)
    for _ in range(50):
        logits = np.zeros(tokenizer.size, dtype=np.float32)
        logits[2:12] = random.normal(0, 0.5, 10)
        expected = logits.copy()
        for token in set(history[-8:]):
            expected[token] *= 1.3 if logits[token] <= 0 else 1 / 1.3
            expected[token] -= 0.2 * history[-8:].count(token) + 0.4
        token = sampler.sample(logits)
        assert token == int(np.argmax(expected))
        # What is accepted need not be what the logits said: keep some repetition going.
        history.append(int(random.integers(2, 12)))
        sampler.accept(history[-1])
    sampler.close()


def test_logit_bias_is_added(tokenizer: Tokenizer, logits: np.ndarray) -> None:
    best, second = np.argsort(-logits)[:2].tolist()
    gap = float(logits[best] - logits[second])
    assert draws(tokenizer, logits, SamplingParams(logit_bias={best: -gap / 2}), 1) == [best]
    assert draws(tokenizer, logits, SamplingParams(logit_bias={best: -gap * 2}), 1) == [second]
    assert draws(tokenizer, logits, SamplingParams(logit_bias={9: 100}), 1) == [9]
    with pytest.raises(SamplingError, match=f"token {tokenizer.size}"):
        Sampler(SamplingParams(logit_bias={tokenizer.size: 1}), tokenizer)


def test_a_seed_makes_draws_repeatable(tokenizer: Tokenizer, logits: np.ndarray) -> None:
    def sequence(seed: int | None) -> list:
        return draws(tokenizer, logits, SamplingParams(temperature=2.0, seed=seed), 40)

    assert sequence(1) == sequence(1)
    assert sequence(MAX_SEED) == sequence(MAX_SEED)
    assert sequence(1) != sequence(2)
    assert sequence(None) != sequence(None)


@pytest.fixture(params=[{}, {"temperature": 0.5, "seed": 1}, {"logit_bias": {0: 0.0}}])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


def test_a_grammar_allows_only_its_sentences(tokenizer: Tokenizer, options: dict[str, Any]) -> None:
    params = SamplingParams(grammar='root ::= "ab" | "ac"', **options)
    random = np.random.default_rng(5)
    sampler = Sampler(params, tokenizer)
    text = b""
    for _ in range(4):
        token = sampler.sample(random.normal(size=tokenizer.size).astype(np.float32))
        assert token is not None
        sampler.accept(token)
        if token in tokenizer.eog:
            break
        text += tokenizer.piece(token)
    assert text in (b"ab", b"ac")
    assert token in tokenizer.eog
    sampler.close()


def test_a_grammar_that_allows_no_token_ends_the_generation(
    tokenizer: Tokenizer, options: dict[str, Any]
) -> None:
    params = SamplingParams(grammar="root ::= <[900000]>", **options)
    assert draws(tokenizer, np.zeros(tokenizer.size, np.float32), params, 1) == [None]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", [slice(None), 7])
def test_logits_that_are_not_numbers_raise(
    tokenizer: Tokenizer, options: dict[str, Any], bad: float, where: slice | int
) -> None:
    logits = np.zeros(tokenizer.size, dtype=np.float32)
    logits[where] = bad
    with pytest.raises(GgmlError):
        draws(tokenizer, logits, SamplingParams(**options), 1)


@pytest.mark.parametrize("name", ["grammar", "json_schema"])
def test_bad_grammars_and_schemas_are_refused(tokenizer: Tokenizer, name: str) -> None:
    with pytest.raises(SamplingError):
        Sampler(SamplingParams(**{name: "root ::= foo"}), tokenizer)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", "1"),
        ("temperature", True),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 0),
        ("top_p", 1.01),
        ("min_p", -0.5),
        ("repeat_penalty", 0),
        ("presence_penalty", 3),
        ("frequency_penalty", math.inf),
        ("penalty_last_n", -1),
        ("seed", -1),
        ("seed", 2**32 - 1),
        ("logit_bias", [1]),
        ("logit_bias", {"1": 1}),
        ("logit_bias", {-1: 1}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: 101}),
        ("logit_bias", dict.fromkeys(range(2000), 0)),
        ("grammar", 3),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(SamplingError, match=name):
        SamplingParams(**{name: value})


def test_grammar_and_schema_exclude_each_other() -> None:
    with pytest.raises(SamplingError, match="not both"):
        SamplingParams(grammar='root ::= "a"', json_schema={})


@given(st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=50))
def test_log_softmax_is_exact_enough(values: list[float]) -> None:
    exact = np.array(values, dtype=np.float64)
    exact = exact - exact.max() - np.log(np.exp(exact - exact.max()).sum())
    found = log_softmax(np.array(values, dtype=np.float32))
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)
