"""The GGUF reader: equal to the gguf package's on good files, clear about bad ones."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from pliant.bundle import GgufFile
from pliant.bundle.cursor import StringArray
from pliant.errors import (
    BundleError,
    BundleNotFoundError,
    CorruptFileError,
    UnsupportedModelError,
)
from support.raw_gguf import (
    ARRAY,
    BOOL,
    F64,
    I8,
    I64,
    STRING,
    U16,
    U32,
    U64,
    RawGguf,
    Tensor,
    header_size,
    llama_draft,
)
from support.tiny_gguf import make_tiny_gguf


@pytest.mark.parametrize("type_", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
def test_reads_what_the_gguf_package_reads(tmp_path: Path, type_: str) -> None:
    path = make_tiny_gguf(tmp_path / "m.gguf", type=type_, tied=False, rope_factors=True)
    reference = gguf.GGUFReader(path)
    ours = GgufFile.open(path)
    fields = {key: f for key, f in reference.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata.keys() == fields.keys()
    for key, reference_field in fields.items():
        value = ours.metadata[key]
        if isinstance(value, StringArray | np.ndarray):
            assert list(value) == reference_field.contents(), key
        else:
            assert value == reference_field.contents(), key
    assert list(ours.tensors) == [tensor.name for tensor in reference.tensors]
    for tensor in reference.tensors:
        info = ours.tensors[tensor.name]
        assert info.shape == tuple(int(n) for n in tensor.shape)
        assert int(info.type) == int(tensor.tensor_type)
        assert (info.offset, info.nbytes) == (tensor.data_offset, tensor.n_bytes)
        assert bytes(ours.tensor_bytes(tensor.name)) == tensor.data.tobytes()


def test_reads_every_kind_of_value(tmp_path: Path) -> None:
    draft = RawGguf(
        {
            "a.u16": (U16, 65535),
            "a.i8": (I8, -128),
            "a.u64": (U64, 2**64 - 1),
            "a.i64": (I64, -(2**63)),
            "a.f64": (F64, 0.1),
            "a.true": (BOOL, 1),
            "a.text": (STRING, "é\0x"),
            "a.empty": (ARRAY, (U32, [])),
            "a.none": (ARRAY, (STRING, [])),
            "a.flags": (ARRAY, (BOOL, [0, 1])),
            "a.numbers": (ARRAY, (I64, [-1, 2**62])),
            "a.words": (ARRAY, (STRING, ["x", "", "日本"])),
        },
        version=2,
    )
    metadata = GgufFile.open(draft.write(tmp_path / "m.gguf")).metadata
    plain = {
        k: list(v) if isinstance(v, StringArray | np.ndarray) else v for k, v in metadata.items()
    }
    assert plain == {
        "a.u16": 65535,
        "a.i8": -128,
        "a.u64": 2**64 - 1,
        "a.i64": -(2**63),
        "a.f64": 0.1,
        "a.true": True,
        "a.text": "é\0x",
        "a.empty": [],
        "a.none": [],
        "a.flags": [False, True],
        "a.numbers": [-1, 2**62],
        "a.words": ["x", "", "日本"],
    }
    words = metadata["a.words"]
    assert isinstance(words, StringArray)
    with pytest.raises(IndexError):
        words[3]
    assert (words[-1], words[:2], words.raw()[:2]) == ("日本", ["x", ""], [b"x", b""])


def test_values_cannot_be_changed(tmp_path: Path) -> None:
    opened = GgufFile.open(llama_draft().write(tmp_path / "m.gguf"))
    types: Any = opened.metadata["tokenizer.ggml.token_type"]
    with pytest.raises(ValueError, match="read-only"):
        types[0] = 7
    assert opened.tensor_bytes("token_embd.weight").readonly


Change = Callable[[RawGguf], object]
BAD: dict[str, tuple[Change, type[BundleError], str]] = {
    "magic": (lambda d: setattr(d, "magic", b"GGML"), CorruptFileError, "not a GGUF"),
    "version 1": (lambda d: setattr(d, "version", 1), UnsupportedModelError, "version 1 "),
    "version 4": (lambda d: setattr(d, "version", 4), UnsupportedModelError, "version 4 "),
    "big-endian": (lambda d: setattr(d, "version", 3 << 24), UnsupportedModelError, "big-endian"),
    "tensor count": (lambda d: setattr(d, "num_tensors", 2**64 - 1), CorruptFileError, "tensors"),
    "pair count": (lambda d: setattr(d, "num_pairs", 2**63), CorruptFileError, "entries"),
    "key twice": (
        lambda d: d.more_pairs.append(("llama.block_count", (U32, 1))),
        CorruptFileError,
        "twice",
    ),
    "empty key": (lambda d: d.more_pairs.append(("", (U32, 1))), CorruptFileError, "empty"),
    "key not UTF-8": (
        lambda d: d.more_pairs.append((b"\xff", (U32, 1))),  # type: ignore[arg-type]
        CorruptFileError,
        "UTF-8",
    ),
    "text not UTF-8": (
        lambda d: d.metadata.update({"x.y": (STRING, b"\xc3")}),
        CorruptFileError,
        "UTF-8",
    ),
    "truth value 2": (
        lambda d: d.metadata.update({"x.y": (BOOL, 2)}),
        CorruptFileError,
        "truth",
    ),
    "truth value 2 in an array": (
        lambda d: d.metadata.update({"x.y": (ARRAY, (BOOL, [0, 2]))}),
        CorruptFileError,
        "truth",
    ),
    "value type 13": (
        lambda d: d.metadata.update({"x.y": (13, bytearray())}),
        CorruptFileError,
        "type 13",
    ),
    "array of arrays": (
        lambda d: d.metadata.update({"x.y": (ARRAY, (ARRAY, []))}),
        CorruptFileError,
        "arrays of value type 9",
    ),
    "long array": (
        lambda d: d.metadata.update({"x.y": (ARRAY, bytearray(struct.pack("<IQ", U64, 2**61)))}),
        CorruptFileError,
        "array items",
    ),
    "long array of strings": (
        lambda d: d.metadata.update({"x.y": (ARRAY, bytearray(struct.pack("<IQ", STRING, 2**61)))}),
        CorruptFileError,
        "strings",
    ),
    "long string in an array": (
        lambda d: d.metadata.update(
            {"x.y": (ARRAY, bytearray(struct.pack("<IQQ", STRING, 1, 2**64 - 1)))}
        ),
        CorruptFileError,
        "past the end",
    ),
    "long text": (
        lambda d: d.metadata.update({"x.y": (STRING, bytearray(struct.pack("<Q", 2**63)))}),
        CorruptFileError,
        "text of",
    ),
    "alignment 33": (
        lambda d: d.metadata.update({"general.alignment": (U32, 33)}),
        CorruptFileError,
        "power of two",
    ),
    "alignment 0": (
        lambda d: d.metadata.update({"general.alignment": (U32, 0)}),
        CorruptFileError,
        "power of two",
    ),
    "alignment 2^63": (
        lambda d: d.metadata.update({"general.alignment": (U64, 2**63)}),
        CorruptFileError,
        "not aligned",
    ),
    "alignment text": (
        lambda d: d.metadata.update({"general.alignment": (STRING, "32")}),
        CorruptFileError,
        "power of two",
    ),
    "tensor twice": (
        lambda d: d.more_tensors.append(("output_norm.weight", Tensor((32,)))),
        CorruptFileError,
        "twice",
    ),
    "tensors overlap": (
        lambda d: d.more_tensors.append(("x", Tensor((32,), 0, 0))),
        CorruptFileError,
        "overlaps",
    ),
    "tensor not aligned": (
        lambda d: d.more_tensors.append(("x", Tensor((32,), 0, 2**20 + 1))),
        CorruptFileError,
        "aligned",
    ),
    "tensor past the end": (
        lambda d: d.more_tensors.append(("x", Tensor((32,), 0, 2**40))),
        CorruptFileError,
        "truncated",
    ),
    "offset wraps around": (
        lambda d: d.more_tensors.append(("x", Tensor((32,), 0, 2**64 - 32))),
        CorruptFileError,
        "truncated",
    ),
    "size wraps around": (
        lambda d: d.more_tensors.append(("x", Tensor((2**32, 2**32, 1, 1), 0, 2**20))),
        CorruptFileError,
        "impossible shape",
    ),
    "zero dimension": (
        lambda d: d.more_tensors.append(("x", Tensor((0, 2**63), 0, 2**20))),
        CorruptFileError,
        "impossible shape",
    ),
    "no dimensions": (
        lambda d: d.more_tensors.append(("x", Tensor((), 0, 2**20))),
        CorruptFileError,
        "0 dimensions",
    ),
    "five dimensions": (
        lambda d: d.more_tensors.append(("x", Tensor((1,) * 5, 0, 2**20))),
        CorruptFileError,
        "5 dimensions",
    ),
    "part of a block": (
        lambda d: d.more_tensors.append(("x", Tensor((33, 2), 8, 2**20))),
        CorruptFileError,
        "whole Q8_0 blocks",
    ),
    "removed type": (
        lambda d: d.more_tensors.append(("x", Tensor((32,), 4, 2**20))),
        UnsupportedModelError,
        "type 4",
    ),
    "long tensor name": (
        lambda d: d.more_tensors.append(("x" * 64, Tensor((32,)))),
        CorruptFileError,
        "at most 63",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(tmp_path: Path, case: str) -> None:
    change, error, message = BAD[case]
    draft = llama_draft()
    change(draft)
    with pytest.raises(error, match=message):
        GgufFile.open(draft.write(tmp_path / "m.gguf"))


def test_refuses_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.gguf", Path("/dev/null"), Path("a\0b")):
        with pytest.raises(BundleNotFoundError):
            GgufFile.open(path)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 8, 23])
def test_refuses_a_stump(tmp_path: Path, size: int) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(llama_draft().encode()[:size])
    with pytest.raises(CorruptFileError):
        GgufFile.open(path)


def test_every_truncation_of_the_header_is_refused(tmp_path: Path) -> None:
    data = llama_draft().encode()
    path = tmp_path / "m.gguf"
    for size in range(0, header_size(data), 7):
        path.write_bytes(data[:size])
        with pytest.raises(CorruptFileError):
            GgufFile.open(path)


def test_refuses_what_goes_on_after_the_last_tensor(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    whole = llama_draft().encode()
    whole += bytes(-len(whole) % 32)
    path.write_bytes(whole)
    GgufFile.open(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CorruptFileError, match="1 bytes follow"):
        GgufFile.open(path)
