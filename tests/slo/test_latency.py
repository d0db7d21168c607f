import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.errors import CorruptFileError, UnknownLevelError
from pliant.slo import DecodeCost, EncodeCost, LatencyModel, LevelLatency, PrefillCost

MODEL = LatencyModel(
    (
        LevelLatency(
            0.5, PrefillCost(1.0, 0.1, 0.001), PrefillCost(0.5, 0.3, 0.002), DecodeCost(2.0, 0.01)
        ),
        LevelLatency(
            1.0, PrefillCost(2.0, 0.2, 0.002), PrefillCost(1.0, 0.6, 0.004), DecodeCost(4.0, 0.02)
        ),
    ),
    EncodeCost(request_ms=5.0, token_ms=0.01),
    prefill_chunk=512,
)

coefficients = st.floats(0, 1e4, allow_subnormal=False)
prefills = st.builds(PrefillCost, st.floats(1e-6, 1e4), coefficients, coefficients)
decodes = st.builds(DecodeCost, st.floats(1e-6, 1e4), coefficients)
latency_models = st.builds(
    lambda ratios, prefill, short, decode, encoding, chunk: LatencyModel(
        tuple(LevelLatency(r, prefill, short, decode) for r in sorted({*ratios, 1.0})),
        encoding,
        chunk,
    ),
    st.sets(st.floats(0.01, 0.99)),
    prefills,
    prefills,
    decodes,
    st.builds(EncodeCost, coefficients, coefficients),
    st.integers(1, 4096),
)


def test_ttft_of_one_chunk() -> None:
    expected = 5 + 0.01 * 100 + (1 + 0.1 * 100 + 0.001 * 100 * 50)
    assert MODEL.predict_ttft(0.5, 100) == pytest.approx(expected)


def test_ttft_counts_every_chunk_and_what_lies_before_it() -> None:
    first = 1 + 0.1 * 512 + 0.001 * 512 * 256
    second = 1 + 0.1 * 88 + 0.001 * 88 * (512 + 44)
    assert MODEL.predict_ttft(0.5, 600) == pytest.approx(5 + 0.01 * 600 + first + second)


def test_a_short_chunk_has_costs_of_its_own() -> None:
    expected = 5 + 0.01 * 10 + (1 + 0.6 * 10 + 0.004 * 10 * (300 + 5))
    assert MODEL.predict_ttft(1.0, 10, start=300) == pytest.approx(expected)
    expected = 5 + 0.01 * 64 + (2 + 0.2 * 64 + 0.002 * 64 * (300 + 32))
    assert MODEL.predict_ttft(1.0, 64, start=300) == pytest.approx(expected)


def test_tpot_grows_with_the_context() -> None:
    assert MODEL.predict_tpot(0.5, 100) == pytest.approx(2 + 0.01 * 100)


def test_an_unknown_level_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(UnknownLevelError, match=r"0\.7 .*known: 0\.5, 1"):
        MODEL.predict_tpot(0.7, 1)


@given(latency_models)
def test_json_round_trip(model: LatencyModel) -> None:
    assert LatencyModel.from_json(json.loads(json.dumps(model.to_json()))) == model


def _altered(path: tuple[object, ...], value: object) -> object:
    document = json.loads(json.dumps(MODEL.to_json()))
    target = document
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 1),
        (("version",), True),
        (("prefill_chunk",), 0),
        (("prefill_chunk",), 1.5),
        (("prefill_chunk",), 1 << 40),
        (("surprise",), 1),
        (("levels",), []),
        (("levels",), {}),
        (("levels", 0), None),
        (("levels", 0, "ratio"), 1.0),
        (("levels", 1, "ratio"), 0.9),
        (("levels", 0, "ratio"), 0.0),
        (("levels", 0, "prefill", "token_ms"), -1e-9),
        (("levels", 0, "prefill", "token_ms"), math.nan),
        (("levels", 0, "prefill", "token_ms"), math.inf),
        (("levels", 0, "prefill", "token_ms"), 10**400),
        (("levels", 0, "prefill", "token_ms"), "1"),
        (("levels", 0, "prefill", "token_ms"), True),
        (("levels", 0, "extra"), 1.0),
        (("encoding",), []),
        (("encoding", "token_ms"), None),
    ],
)
def test_altered_documents_are_refused(path: tuple[object, ...], value: object) -> None:
    with pytest.raises(CorruptFileError, match="latency model"):
        LatencyModel.from_json(_altered(path, value))


def test_levels_that_take_no_time_are_refused() -> None:
    nothing = {**MODEL.to_json()["levels"][0], "decode": {"step_ms": 0, "kv_ms": 0}}
    with pytest.raises(CorruptFileError, match="takes no time"):
        LatencyModel.from_json(_altered(("levels", 0), nothing))


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(json_values)
def test_other_documents_are_refused(document: object) -> None:
    with pytest.raises(CorruptFileError):
        LatencyModel.from_json(document)
