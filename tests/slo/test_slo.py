import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.errors import SloError
from pliant.slo import Slo

SHARES = st.floats(0, 1, exclude_min=True)
TIMES = st.floats(0, 1e6, exclude_min=True)


@pytest.mark.parametrize("value", [0, -0.1, 1.0001, math.nan, math.inf, True, "0.5", "x"])
@pytest.mark.parametrize("side", ["ttft", "tpot"])
def test_a_share_outside_its_range_names_key_value_and_range(side: str, value: object) -> None:
    with pytest.raises(SloError, match=rf"{side} is .*above 0 and at most 1") as raised:
        Slo(**{side: value})  # type: ignore[arg-type]
    assert repr(value) in str(raised.value)


@pytest.mark.parametrize("value", [0, -5, math.nan, math.inf, 10**400, False, "9"])
@pytest.mark.parametrize("side", ["ttft_ms", "tpot_ms"])
def test_a_time_outside_its_range_names_key_value_and_range(side: str, value: object) -> None:
    with pytest.raises(SloError, match=rf"{side} is .*milliseconds above 0"):
        Slo(**{side: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["ttft", "tpot"])
def test_both_forms_of_one_side_are_refused(side: str) -> None:
    with pytest.raises(SloError, match=f"either {side} or {side}_ms, not both"):
        Slo(**{side: 0.5, f"{side}_ms": 100})


def test_sides_are_independent() -> None:
    slo = Slo(ttft=0.5, tpot_ms=80)
    assert (slo.ttft, slo.ttft_ms, slo.tpot, slo.tpot_ms) == (0.5, None, None, 80)
    assert str(slo) == "<50%,80ms>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.4", Slo(ttft=0.4)),
        ("40%", Slo(ttft=0.4)),
        (" 40 % ", Slo(ttft=0.4)),
        ("1", Slo(ttft=1.0)),
        (".5", Slo(ttft=0.5)),
        ("400ms", Slo(ttft_ms=400)),
        ("1.5 s", Slo(ttft_ms=1500)),
        (None, Slo()),
    ],
)
def test_text_forms(text: str | None, expected: Slo) -> None:
    assert Slo.parse(ttft=text) == expected


def test_both_sides_are_parsed() -> None:
    assert Slo.parse("0.4", "60ms") == Slo(ttft=0.4, tpot_ms=60)


@pytest.mark.parametrize("text", ["", "fast", "-0.4", "0", "0%", "101%", "0ms", "nan", "1e-3", "٤"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(SloError, match="tpot"):
        Slo.parse(tpot=text)


def test_a_bare_number_above_one_gets_a_hint() -> None:
    with pytest.raises(SloError, match="did you mean 400ms"):
        Slo.parse(ttft="400")


@given(st.text())
def test_any_text_parses_or_is_an_slo_error(text: str) -> None:
    try:
        slo = Slo.parse(text, text)
    except SloError:
        return
    assert slo != Slo()


@given(SHARES, TIMES)
def test_every_value_in_range_is_accepted(share: float, time_ms: float) -> None:
    assert Slo(ttft=share, tpot_ms=time_ms).ttft == share
    assert Slo(ttft_ms=time_ms, tpot=share).tpot == share
