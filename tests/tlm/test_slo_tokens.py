import pytest

from pliant.errors import SloError
from pliant.tlm.slo_tokens import NUM_SLO_TOKENS, TPOT_BUCKETS, TTFT_BUCKETS, slo_tokens


@pytest.mark.parametrize(
    ("ttft", "tpot", "buckets"),
    [
        (None, None, (1.0, 1.0)),
        (1.0, 1.0, (1.0, 1.0)),
        (0.2, 0.5, (0.2, 0.5)),
        (0.35, 0.55, (0.3, 0.5)),
        (0.1 + 0.2, 0.7, (0.3, 0.7)),
        (0.999, 0.999, (0.9, 0.9)),
        (0.01, 0.01, (0.2, 0.5)),
    ],
)
def test_a_share_takes_the_stricter_bucket(
    ttft: float | None, tpot: float | None, buckets: tuple[float, float]
) -> None:
    first, second = slo_tokens(ttft, tpot)
    assert (TTFT_BUCKETS[first], TPOT_BUCKETS[second - len(TTFT_BUCKETS)]) == buckets


def test_every_bucket_has_a_token_of_its_own() -> None:
    tokens = {slo_tokens(ttft, tpot)[0] for ttft in TTFT_BUCKETS for tpot in TPOT_BUCKETS}
    tokens |= {slo_tokens(ttft, tpot)[1] for ttft in TTFT_BUCKETS for tpot in TPOT_BUCKETS}
    assert tokens == set(range(NUM_SLO_TOKENS))


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan"), True, "0.5"])
def test_anything_but_a_share_is_refused(share: float) -> None:
    with pytest.raises(SloError, match="above 0 and at most 1"):
        slo_tokens(share, None)
