"""`pliant.json`: every accident opens or is explained."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pliant.bundle import open_bundle
from pliant.errors import BundleError, BundleNotFoundError, CorruptFileError, UnsupportedModelError
from support.tiny_bundle import make_tiny_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("manifest") / "tiny", layers=1).path


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "pliant.json").read_text()


@pytest.fixture(autouse=True)
def restore(folder: Path, text: str) -> Iterator[None]:
    yield
    (folder / "pliant.json").write_text(text)


Change = Callable[[dict[str, Any]], object]
BAD: dict[str, tuple[Change, type[BundleError], str]] = {
    "format": (lambda m: m.update(format="zip"), CorruptFileError, "not the manifest"),
    "no version": (lambda m: m.pop("version"), CorruptFileError, "version is None"),
    "version 0": (lambda m: m.update(version=0), CorruptFileError, "version is 0"),
    "version true": (lambda m: m.update(version=True), CorruptFileError, "version is True"),
    "newer": (lambda m: m.update(version=2, new=1), UnsupportedModelError, "update pliant"),
    "unknown key": (lambda m: m.update(extra=1), CorruptFileError, "extra"),
    "missing key": (lambda m: m.pop("provenance"), CorruptFileError, "provenance"),
    "name": (lambda m: m.update(name="../up"), CorruptFileError, "plain name"),
    "files": (lambda m: m.update(files=[]), CorruptFileError, "files is not an object"),
    "no model": (lambda m: m["files"].clear(), CorruptFileError, "must list model.gguf"),
    "parent": (
        lambda m: m["files"].update({"../x": m["files"]["model.gguf"]}),
        CorruptFileError,
        "'../x' is not a plain name",
    ),
    "absolute": (
        lambda m: m["files"].update({"/etc/passwd": m["files"]["model.gguf"]}),
        CorruptFileError,
        "plain name",
    ),
    "dots": (
        lambda m: m["files"].update({"..": m["files"]["model.gguf"]}),
        CorruptFileError,
        "plain name",
    ),
    "itself": (
        lambda m: m["files"].update({"pliant.json": m["files"]["model.gguf"]}),
        CorruptFileError,
        "not pliant.json",
    ),
    "size": (
        lambda m: m["files"]["model.gguf"].update(bytes=7),
        CorruptFileError,
        "the manifest says 7",
    ),
    "size text": (
        lambda m: m["files"]["model.gguf"].update(bytes="7"),
        CorruptFileError,
        "bytes is '7'",
    ),
    "sha256": (
        lambda m: m["files"]["model.gguf"].update(sha256="A" * 64),
        CorruptFileError,
        "sha256 is",
    ),
    "levels": (lambda m: m.update(levels={}), CorruptFileError, "levels is not a list"),
    "no levels": (lambda m: m.update(levels=[]), CorruptFileError, "last level"),
    "many levels": (lambda m: m.update(levels=m["levels"] * 65), CorruptFileError, "at most 64"),
    "level": (lambda m: m["levels"].append(1), CorruptFileError, "levels: 3 is not an object"),
    "adapter": (
        lambda m: m["levels"][0].update(adapter="adapter-0.3.gguf"),
        CorruptFileError,
        "adapter",
    ),
    "ratio": (lambda m: m["levels"][0].update(ratio=0), CorruptFileError, "ratio is 0"),
    "order": (lambda m: m["levels"].reverse(), CorruptFileError, "last level"),
    "cost": (lambda m: m["levels"][0].update(cost=0.1), CorruptFileError, "its cost is"),
    "plan": (lambda m: m["levels"][0].update(plan=[[1, 2]]), CorruptFileError, "a plan is"),
    "layers": (lambda m: m["levels"][0]["plan"].append([1, 1, 32]), CorruptFileError, "2 layers"),
    "heads": (
        lambda m: m["levels"][0].update(plan=[[9, 2, 32]]),
        CorruptFileError,
        "kv_heads is 9",
    ),
    "provenance": (lambda m: m.update(provenance="me"), CorruptFileError, "provenance"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses(folder: Path, text: str, case: str) -> None:
    change, error, message = BAD[case]
    manifest = json.loads(text)
    change(manifest)
    (folder / "pliant.json").write_text(json.dumps(manifest))
    with pytest.raises(error, match=message):
        open_bundle(folder)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("", "not valid JSON"),
        ("null", "not the manifest"),
        ("[" * 100_000, "not valid JSON"),
        ('{"a":' * 100_000, "not valid JSON"),
        ('{"version": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"format": 1, "format": 2}', "appears twice"),
        ('{"version": NaN}', "NaN is not a number"),
        ('{"version": -Infinity}', "-Infinity is not a number"),
        ("\xff", "not valid JSON"),
        (" " * (5 << 20), "more than"),
    ],
)
def test_refuses_text(folder: Path, wrong: str, message: str) -> None:
    (folder / "pliant.json").write_bytes(wrong.encode("latin-1"))
    with pytest.raises(CorruptFileError, match=message):
        open_bundle(folder)


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError, match=r"it has no pliant\.json"):
        open_bundle(tmp_path)


# --- Mutations ------------------------------------------------------------------------------

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 32, 2**31, 2**64, 10**400, 0.0, -0.5, 1e308, 1e-320]),
    st.sampled_from(["", "..", "model.gguf", "pliant.json", "\0", "\ud800", "x" * 3000]),
    st.sampled_from([[], {}, [[]], [{}], {"bytes": 1}]).map(copy.deepcopy),
)


def spots(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something can be replaced: the path to every value."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from spots(inner, (*path, key))


def opens_or_explains(folder: Path, manifest: bytes) -> None:
    (folder / "pliant.json").write_bytes(manifest)
    try:
        open_bundle(folder)
    except BundleError as error:
        assert str(error)
        assert len(str(error)) < 2000


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_manifest_with_odd_values_opens_or_is_refused(
    folder: Path, text: str, data: st.DataObject
) -> None:
    manifest = copy.deepcopy(json.loads(text))
    for _ in range(data.draw(st.integers(1, 2))):
        *path, last = data.draw(st.sampled_from(list(spots(manifest))))
        place = manifest
        for key in path:
            place = place[key]
        match data.draw(st.sampled_from(["replace", "drop", "double"])):
            case "replace":
                place[last] = data.draw(ODD)
            case "drop":
                del place[last]
            case "double" if isinstance(place, list):
                place.append(copy.deepcopy(place[last]))
        if not manifest:
            break
    opens_or_explains(folder, json.dumps(manifest).encode())


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_manifest_with_odd_bytes_opens_or_is_refused(
    folder: Path, text: str, data: st.DataObject
) -> None:
    mutated = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(mutated) - 1)))
        match data.draw(st.sampled_from(["bit", "bytes", "cut", "delete"])):
            case "bit" if mutated:
                mutated[at] ^= 1 << data.draw(st.integers(0, 7))
            case "bytes":
                mutated[at : at + 4] = data.draw(st.binary(max_size=8))
            case "cut":
                del mutated[at:]
            case "delete":
                del mutated[at : at + data.draw(st.integers(1, 40))]
    opens_or_explains(folder, bytes(mutated))
