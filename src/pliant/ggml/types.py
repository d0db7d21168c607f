"""ggml's tensor types: number, block length and bytes per block (no library needed)."""

from dataclasses import dataclass
from enum import IntEnum


class GgmlType(IntEnum):
    """Numbers as in `enum ggml_type` (ggml.h); stored in GGUF files."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40
    Q1_0 = 41
    Q2_0 = 42


@dataclass(frozen=True)
class TypeSize:
    """`block` elements are stored in `nbytes` bytes."""

    block: int
    nbytes: int


TYPE_SIZES: dict[GgmlType, TypeSize] = {
    GgmlType.F32: TypeSize(1, 4),
    GgmlType.F16: TypeSize(1, 2),
    GgmlType.Q4_0: TypeSize(32, 18),
    GgmlType.Q4_1: TypeSize(32, 20),
    GgmlType.Q5_0: TypeSize(32, 22),
    GgmlType.Q5_1: TypeSize(32, 24),
    GgmlType.Q8_0: TypeSize(32, 34),
    GgmlType.Q8_1: TypeSize(32, 36),
    GgmlType.Q2_K: TypeSize(256, 84),
    GgmlType.Q3_K: TypeSize(256, 110),
    GgmlType.Q4_K: TypeSize(256, 144),
    GgmlType.Q5_K: TypeSize(256, 176),
    GgmlType.Q6_K: TypeSize(256, 210),
    GgmlType.Q8_K: TypeSize(256, 292),
    GgmlType.IQ2_XXS: TypeSize(256, 66),
    GgmlType.IQ2_XS: TypeSize(256, 74),
    GgmlType.IQ3_XXS: TypeSize(256, 98),
    GgmlType.IQ1_S: TypeSize(256, 50),
    GgmlType.IQ4_NL: TypeSize(32, 18),
    GgmlType.IQ3_S: TypeSize(256, 110),
    GgmlType.IQ2_S: TypeSize(256, 82),
    GgmlType.IQ4_XS: TypeSize(256, 136),
    GgmlType.I8: TypeSize(1, 1),
    GgmlType.I16: TypeSize(1, 2),
    GgmlType.I32: TypeSize(1, 4),
    GgmlType.I64: TypeSize(1, 8),
    GgmlType.F64: TypeSize(1, 8),
    GgmlType.IQ1_M: TypeSize(256, 56),
    GgmlType.BF16: TypeSize(1, 2),
    GgmlType.TQ1_0: TypeSize(256, 54),
    GgmlType.TQ2_0: TypeSize(256, 66),
    GgmlType.MXFP4: TypeSize(32, 17),
    GgmlType.NVFP4: TypeSize(64, 36),
    GgmlType.Q1_0: TypeSize(128, 18),
    GgmlType.Q2_0: TypeSize(64, 18),
}


def row_size(type_: GgmlType, elements: int) -> int:
    """Bytes of a row of `elements`, which must be whole blocks of `type_`."""
    size = TYPE_SIZES[type_]
    return elements // size.block * size.nbytes
