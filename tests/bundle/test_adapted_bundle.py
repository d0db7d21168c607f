"""Bundles whose levels have adapters: written, opened, checked and described."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pliant.bundle import (
    Bundle,
    check,
    cost_ratio,
    describe,
    open_bundle,
    with_adapter,
    write_bundle,
)
from pliant.errors import BundleError, CorruptFileError, PlanError
from support.adapters import add_adapters, make_adapter
from support.tiny_bundle import make_tiny_bundle

NAMES = ["adapter-0.3.gguf", "adapter-0.5.gguf"]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return add_adapters(make_tiny_bundle(tmp_path / "tiny"))


def edit_manifest(bundle: Bundle, index: int, **fields: object) -> None:
    path = bundle.path / "pliant.json"
    manifest = json.loads(path.read_text())
    manifest["levels"][index] |= fields
    path.write_text(json.dumps(manifest))


def test_opens_what_was_written(bundle: Bundle) -> None:
    opened = open_bundle(bundle.path)
    assert [level.adapter for level in opened.levels] == [*NAMES, None]
    assert sorted(opened.adapters) == NAMES
    assert {path.name for path in bundle.path.iterdir()} == {"model.gguf", "pliant.json", *NAMES}
    for level in opened.levels[:-1]:
        bare = cost_ratio(opened.architecture, level.plan)
        parameters = opened.adapters[level.adapter or ""].parameters
        assert level.cost > bare
        full = 2 * 512 * 2 * 64 + 64 * 320 + 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
        assert level.cost == pytest.approx(bare + parameters / full)
    assert check(opened) == []


def test_an_older_bundle_with_adapters_is_replaced(bundle: Bundle) -> None:
    bare = [replace(level, adapter=None) for level in bundle.levels]
    levels = [replace(lv, cost=cost_ratio(bundle.architecture, lv.plan)) for lv in bare]
    again = write_bundle(bundle.path, bundle.gguf.path, levels, {})
    assert {path.name for path in again.path.iterdir()} == {"model.gguf", "pliant.json"}


def test_describes_adapters(bundle: Bundle) -> None:
    described = json.loads(json.dumps(describe(bundle).to_json()))["levels"]
    assert described[-1]["adapter"] is None
    for level, name in zip(described, NAMES, strict=False):
        path = bundle.path / name
        assert level["adapter"]["file"] == name
        assert level["adapter"]["nbytes"] == path.stat().st_size
        assert (level["adapter"]["rank"], level["adapter"]["alpha"]) == (8, 16.0)
        assert level["adapter"]["type"] == "F16"
        assert level["adapter"]["parameters"] == bundle.adapters[name].parameters


def test_check_finds_altered_and_missing_adapters(bundle: Bundle) -> None:
    first, second = (bundle.path / name for name in NAMES)
    data = bytearray(first.read_bytes())
    data[-2] ^= 1
    first.write_bytes(data)
    opened = open_bundle(bundle.path)
    second.unlink()
    findings = [(finding.problem, finding.file) for finding in check(opened)]
    assert findings == [("sha256", NAMES[0]), ("missing", NAMES[1])]
    with pytest.raises(CorruptFileError, match=r"adapter-0\.5\.gguf is missing"):
        open_bundle(bundle.path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"adapter": "nonesuch.gguf"}, "nonesuch.gguf is not among the files"),
        ({"adapter": "model.gguf"}, "model.gguf is not among the files"),
        ({"adapter": "../a"}, "not a plain name"),
        ({"adapter": None}, "not a plain name"),
        ({"adapter": NAMES[1]}, "its level has"),
        ({"cost": 0.31}, "its cost is"),
    ],
)
def test_a_manifest_that_lies_about_adapters_is_refused(
    bundle: Bundle, fields: dict, message: str
) -> None:
    edit_manifest(bundle, 0, **fields)
    with pytest.raises(CorruptFileError, match=message):
        open_bundle(bundle.path)


def test_the_full_model_has_no_adapter(bundle: Bundle) -> None:
    edit_manifest(bundle, 2, adapter=NAMES[1])
    with pytest.raises(CorruptFileError, match="the full model has an adapter"):
        open_bundle(bundle.path)


def test_adapters_that_do_not_belong_are_not_written(bundle: Bundle, tmp_path: Path) -> None:
    a, level = bundle.architecture, bundle.levels[0]
    path = tmp_path / "a.gguf"
    adapter = make_adapter(path, a, level.plan)
    target, model, rest = tmp_path / "new", bundle.gguf.path, bundle.levels[2:]
    named = with_adapter(a, level, "a.gguf", adapter)
    for given in ({}, {"b.gguf": path}):
        with pytest.raises(BundleError, match="not both named by a level and given"):
            write_bundle(target, model, [named, *rest], {}, given)
    for name in ("model.gguf", "pliant.json", "../a.gguf"):
        with pytest.raises(BundleError, match="cannot name an adapter"):
            write_bundle(target, model, [replace(named, adapter=name), *rest], {}, {name: path})
    with pytest.raises(PlanError, match="its cost is"):
        write_bundle(target, model, [replace(level, cost=0.31), *rest], {}, {NAMES[0]: path})
    other = with_adapter(a, replace(level, plan=bundle.levels[1].plan), "a", adapter)
    with pytest.raises(CorruptFileError, match="its level has"):
        write_bundle(target, model, [other, *rest], {}, {"a": path})
    assert not target.exists()
