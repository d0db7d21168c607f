"""The SLO tokens: what a latency objective looks like to the tiny language model.

A share of the full model's latency falls into a bucket, and each bucket is a token with an
embedding of its own ([02]..[09] and <05>..<10> in ElastiLM, arXiv 2409.09071, section 3.3).
"""

from __future__ import annotations

from pliant.errors import SloError

# No TTFT limit is the last bucket, as is a share of 1.0: the full model with the full prompt.
TTFT_BUCKETS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
TPOT_BUCKETS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
NUM_SLO_TOKENS = len(TTFT_BUCKETS) + len(TPOT_BUCKETS)

# The TTFT and the TPOT token stand in front of a window where the decision branch begins; with the
# [CLS] behind them they are what the decision is pooled from.
SLO = 2
SUMMARY = SLO + 1

_TOLERANCE = 1e-6


def slo_tokens(ttft: float | None, tpot: float | None) -> tuple[int, int]:
    """Rows of the SLO embeddings for two shares (0..1], None for no limit.

    A share between two buckets takes the stricter one, a share below all of them the first.
    Raises SloError for anything but such a share.
    """
    return (
        _bucket("ttft", ttft, TTFT_BUCKETS),
        len(TTFT_BUCKETS) + _bucket("tpot", tpot, TPOT_BUCKETS),
    )


def _bucket(side: str, share: float | None, buckets: tuple[float, ...]) -> int:
    if share is None:
        return len(buckets) - 1
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise SloError(f"{side} is {share!r}; allowed: a number above 0 and at most 1, or None")
    within = [index for index, bucket in enumerate(buckets) if bucket <= share + _TOLERANCE]
    return within[-1] if within else 0
