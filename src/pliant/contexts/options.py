"""How persistent contexts are kept; every default is written here once."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from pliant.contexts.bits import DEFAULT_AVERAGE_BITS
from pliant.contexts.chunk import BITS, LOSSLESS
from pliant.contexts.storage import StorageProfile
from pliant.contexts.store import DEFAULT_QUOTA_BYTES
from pliant.errors import RequestError

DEFAULT_MEMORY_BYTES = 256 << 20
# What chunks of 2 bits take, with all that is kept beside them.
MIN_AVERAGE_BITS = 3.25

Overflow = Literal["error", "compress"]

_SIZE = re.compile(r"(\d{1,15}(?:\.\d+)?)\s*([KMGT]i?)?B?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True)
class ContextOptions:
    """Raises RequestError, naming option, value and allowed range, when made with a bad value.

    memory_bytes    for slots in use and compressed chunks together
    quota_bytes     of disk for stored KV; histories are not counted and never dropped
    average_bits    per key or value over a context's chunks, denser chunks getting more
    bits            the same for all chunks instead: 16 (lossless), 8, 4 or 2
    overflow        what becomes of a context that reaches the model's length: 'error', or
                    'compress', which shortens its oldest turns
    storage         read no faster than this device does; None: as fast as the disk is
    """

    memory_bytes: int = DEFAULT_MEMORY_BYTES
    quota_bytes: int = DEFAULT_QUOTA_BYTES
    average_bits: float = DEFAULT_AVERAGE_BITS
    bits: int | None = None
    overflow: Overflow = "error"
    storage: StorageProfile | None = None

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "quota_bytes"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise RequestError(f"{name} is {value!r}; it must be a whole number from 1 on")
        if not MIN_AVERAGE_BITS <= self.average_bits <= LOSSLESS:
            raise RequestError(
                f"average_bits is {self.average_bits!r}; it must be from {MIN_AVERAGE_BITS:g} "
                f"to {LOSSLESS}"
            )
        if self.bits is not None and self.bits not in BITS:
            choices = ", ".join(map(str, BITS))
            raise RequestError(f"bits is {self.bits!r}; it must be one of {choices}")
        if self.overflow not in get_args(Overflow):
            choices = ", ".join(get_args(Overflow))
            raise RequestError(f"overflow is {self.overflow!r}; it must be one of {choices}")


def parse_bytes(text: str) -> int:
    """A size such as 256MiB, 1.5GiB, 500MB or 4096; raises RequestError for anything else."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise RequestError(f"{text!r} is no size; write it as in 256MiB, 1.5GiB or 500MB")
    unit = (found[2] or "").lower()
    base = 1024 if unit.endswith("i") else 1000
    return int(float(found[1]) * base ** _POWERS[unit[:1]])
