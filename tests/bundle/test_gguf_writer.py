"""Files we write, read by the gguf package and by our own reader."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pliant.bundle import GgufFile
from pliant.bundle.gguf_writer import TensorSpec, write_gguf
from pliant.errors import BundleError
from pliant.ggml.types import GgmlType

numbers = st.integers(-(2**63), 2**64 - 1)
arrays = st.builds(
    np.array,
    st.lists(st.integers(0, 100), min_size=1, max_size=5),
    st.sampled_from([np.uint8, np.int32, np.uint32, np.float32, np.float64, np.bool_]),
)
values = st.one_of(
    st.booleans(),
    numbers,
    st.floats(width=32, allow_nan=False),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.lists(st.text(st.characters(codec="utf-8"), max_size=5), max_size=4),
    arrays,
)


def plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,8}\.[a-z]{1,8}", fullmatch=True), values, max_size=5)
)
def test_metadata_comes_back(tmp_path: Path, metadata: dict) -> None:
    path = tmp_path / "m.gguf"
    data = np.arange(6, dtype=np.float32)
    specs = [TensorSpec("a", (3, 2), GgmlType.F32), TensorSpec("b", (1,), GgmlType.F16)]
    write_gguf(path, metadata, specs, [[data[:2], data[2:]], [b"\0\x3c"]])
    opened = GgufFile.open(path)
    read = {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}
    for key, value in metadata.items():
        ours = opened.metadata[key]
        ours = list(ours) if isinstance(value, list) else plain(ours)
        assert ours == plain(value)
        if not (isinstance(value, list) and not value):
            assert plain(read[key]) == plain(value)
    assert bytes(opened.tensor_bytes("a")) == data.tobytes()
    assert opened.tensors["a"].shape == (3, 2)
    assert bytes(opened.tensor_bytes("b")) == b"\0\x3c"
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.gguf"]


def test_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")
    spec = TensorSpec("a", (3,), GgmlType.F32)
    with pytest.raises(ValueError, match="a has 8 bytes, its shape says 12"):
        write_gguf(path, {}, [spec], [[np.zeros(2, np.float32)]])

    def fails() -> bytes:
        raise OSError(28, "No space left on device")

    with pytest.raises(BundleError, match="No space left"):
        write_gguf(path, {}, [spec], ([fails()] for _ in range(1)))
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.gguf"]
