"""How many bits each chunk keeps: dense chunks more, under one average of all.

LLMS (arXiv 2403.11805, section 3.2) cuts chunks sorted by density into classes. Here the classes
follow from what an answer loses: the noise of a chunk's keys and values reaches it in proportion
to the attention the chunk receives. The bytes go where they take away most noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pliant.errors import RequestError

DEFAULT_AVERAGE_BITS = 4.5

# What an answer loses when all chunks have so many bits: the divergence of its logits, in nats per
# token, of the built-in model (benchmarks/kv_formats.py). Only their proportions count.
NOISE = {8: 0.0002, 4: 0.002, 2: 0.03}
_STEPS = ((2, 4), (4, 8))


@dataclass(frozen=True)
class Candidate:
    """A chunk that needs bits. `density` is the attention it receives (`chunk_densities`),
    `num_values` its keys and values, `nbytes` its size by bits."""

    density: float
    num_values: int
    nbytes: Mapping[int, int]


@dataclass(frozen=True)
class Spent:
    """What the other chunks under the same average take already."""

    num_values: int = 0
    nbytes: int = 0


NOTHING_SPENT = Spent()


def assign_bits(
    candidates: Sequence[Candidate],
    average_bits: float = DEFAULT_AVERAGE_BITS,
    spent: Spent = NOTHING_SPENT,
) -> list[int]:
    """Bits (8, 4 or 2) for each candidate.

    All chunks together, those of `spent` included, take at most `average_bits` bits of payload
    per key or value, everything that is stored for them counted; where that cannot be, because
    the others took more, each candidate gets 2. Of two candidates of equal size the denser never
    gets fewer. Raises RequestError for an average below what 2 bits take.
    """
    num_values = spent.num_values + sum(c.num_values for c in candidates)
    _check(candidates, average_bits)
    left = average_bits * num_values / 8 - spent.nbytes - sum(c.nbytes[2] for c in candidates)
    bits = [2] * len(candidates)
    for _, index, low, high in sorted(_upgrades(candidates), reverse=True):
        cost = candidates[index].nbytes[high] - candidates[index].nbytes[low]
        if bits[index] == low and cost <= left:
            bits[index] = high
            left -= cost
    return bits


def _upgrades(candidates: Sequence[Candidate]) -> list[tuple[float, int, int, int]]:
    """Noise taken away per byte, the candidate's index, bits before and after."""
    upgrades = []
    for index, candidate in enumerate(candidates):
        for low, high in _STEPS:
            cost = candidate.nbytes[high] - candidate.nbytes[low]
            gain = candidate.density * (NOISE[low] - NOISE[high]) / cost
            upgrades.append((gain, index, low, high))
    return upgrades


def _check(candidates: Sequence[Candidate], average_bits: float) -> None:
    for candidate in candidates:
        least = 8 * candidate.nbytes[2] / candidate.num_values
        if not average_bits >= least:
            raise RequestError(
                f"an average of {average_bits} bits cannot be reached: chunks of 2 bits take "
                f"{least:.3g} bits per key or value"
            )
