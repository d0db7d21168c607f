"""SLOs, states and latencies at random."""

from hypothesis import strategies as st

from pliant.slo import EncodeCost, LatencyModel, Slo
from support.synthetic_latency import flat_level

shares = st.floats(0.01, 1)
slos = st.builds(
    lambda ttft, tpot, is_ttft_ms, is_tpot_ms: Slo(
        **{"ttft_ms" if is_ttft_ms else "ttft": ttft * (1000 if is_ttft_ms else 1)},
        **{"tpot_ms" if is_tpot_ms else "tpot": tpot * (50 if is_tpot_ms else 1)},
    ),
    shares,
    shares,
    st.booleans(),
    st.booleans(),
)
costs = st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 50)), min_size=1, max_size=9)


def random_latency(steps: list[tuple[float, float]]) -> LatencyModel:
    """Levels with the given (ms per prompt token, ms per step)."""
    ratios = [(i + 1) / len(steps) for i in range(len(steps))]
    levels = (flat_level(r, a, b) for r, (a, b) in zip(ratios, steps, strict=True))
    return LatencyModel(tuple(levels), EncodeCost(), 512)
