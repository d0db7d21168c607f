"""How many bits each chunk keeps: dense chunks more, under one average of all."""

from collections.abc import Sequence
from dataclasses import dataclass

DEFAULT_AVERAGE_BITS = 4.5


@dataclass(frozen=True)
class Candidate:
    """A chunk that needs bits. `density` is the attention it receives (`chunk_densities`),
    `num_values` its keys and values, `sizes` its bytes by bits."""

    density: float
    num_values: int
    sizes: dict[int, int]


@dataclass(frozen=True)
class Spent:
    """What the pool's other chunks take already."""

    num_values: int = 0
    nbytes: int = 0


def assign_bits(
    candidates: Sequence[Candidate],
    average_bits: float = DEFAULT_AVERAGE_BITS,
    spent: Spent = Spent(),
) -> list[int]:
    """Bits (8, 4 or 2) for each candidate, such that all chunks together, those of `spent`
    included, take at most `average_bits` per key or value; denser candidates never get fewer."""
    raise NotImplementedError
