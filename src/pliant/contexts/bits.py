"""How many bits each KV head of a chunk keeps: dense ones more, under one average of all.

LLMS (arXiv 2403.11805, section 3.2) cuts chunks sorted by density into classes. Here it is the
heads of each layer (see `density`), and the classes follow from what an answer loses: the noise of
a head's keys and values reaches it in proportion to the attention that the head pays. The bytes go
where they take away most noise.
"""

from collections.abc import Mapping, Sequence

from pliant.errors import RequestError

DEFAULT_AVERAGE_BITS = 4.5

# Squared relative error of keys and values (benchmarks/kv_formats.py). Only proportions count.
NOISE = {8: 0.00003, 4: 0.006, 2: 0.08}
_STEPS = ((2, 4), (4, 8))


def assign_bits(
    densities: Sequence[float],
    nbytes: Mapping[int, int],
    num_values: int,
    average_bits: float = DEFAULT_AVERAGE_BITS,
) -> list[int]:
    """Bits (8, 4 or 2) for each section of a chunk, by the density of its head.

    `nbytes` is a section's size by bits, `num_values` its keys and values. All sections together
    take at most `average_bits` bits per key or value, everything that is stored for them counted.
    The denser of two never gets fewer. Raises RequestError for an average below what 2 bits take.
    """
    least = 8 * nbytes[2] / num_values
    if not average_bits >= least:
        raise RequestError(
            f"an average of {average_bits} bits cannot be reached: chunks of 2 bits take "
            f"{least:.3g} bits per key or value"
        )
    left = len(densities) * (average_bits * num_values / 8 - nbytes[2])
    bits = [2] * len(densities)
    for _, index, low, high in sorted(_upgrades(densities, nbytes), reverse=True):
        cost = nbytes[high] - nbytes[low]
        if bits[index] == low and cost <= left:
            bits[index] = high
            left -= cost
    return bits


def _upgrades(
    densities: Sequence[float], nbytes: Mapping[int, int]
) -> list[tuple[float, int, int, int]]:
    """Noise taken away per byte, the section's index, bits before and after."""
    return [
        (density * (NOISE[low] - NOISE[high]) / (nbytes[high] - nbytes[low]), index, low, high)
        for index, density in enumerate(densities)
        for low, high in _STEPS
    ]
