"""Accidents that happen to files."""

import struct

from hypothesis import strategies as st

ODD_NUMBERS = [
    0,
    1,
    2,
    31,
    33,
    255,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
]


@st.composite
def mutations(draw: st.DrawFn, data: bytes, header_size: int) -> bytes:
    """`data` after one to three accidents in its first `header_size` bytes."""
    mutated = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        end = min(header_size, len(mutated) - 1)
        if end < 1:
            break
        at = draw(st.integers(0, end))
        match draw(st.sampled_from(["bit", "bytes", "number", "delete", "insert", "cut", "copy"])):
            case "bit":
                mutated[at] ^= 1 << draw(st.integers(0, 7))
            case "bytes":
                new = draw(st.binary(min_size=1, max_size=16))
                mutated[at : at + len(new)] = new
            case "number":
                width = draw(st.sampled_from(["<I", "<Q"]))
                number = draw(st.sampled_from(ODD_NUMBERS))
                new = struct.pack(width, number % (1 << (8 * struct.calcsize(width))))
                mutated[at : at + len(new)] = new
            case "delete":
                del mutated[at : at + draw(st.integers(1, 64))]
            case "insert":
                mutated[at:at] = draw(st.binary(min_size=1, max_size=64))
            case "cut":
                del mutated[at:]
            case "copy":
                start = draw(st.integers(0, end))
                mutated[at : at + 24] = mutated[start : start + 24]
    return bytes(mutated)
