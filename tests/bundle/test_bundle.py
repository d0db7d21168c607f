"""Open, write, check, describe and list bundles."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from pliant.bundle import (
    Level,
    Plan,
    check,
    describe,
    installed_bundles,
    open_bundle,
    write_bundle,
)
from pliant.errors import (
    BundleError,
    BundleNotFoundError,
    CorruptFileError,
    PlanError,
    UnknownLevelError,
)
from support.tiny_bundle import RATIOS, make_tiny_bundle
from support.tiny_gguf import make_tiny_gguf


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pliant's home folder, empty."""
    monkeypatch.setenv("PLIANT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_plain_gguf_has_one_level(tmp_path: Path) -> None:
    path = make_tiny_gguf(tmp_path / "plain.gguf")
    bundle = open_bundle(str(path))
    assert (bundle.path, bundle.name, bundle.manifest) == (path, "plain", None)
    assert bundle.levels == (Level(1.0, Plan.full(bundle.architecture), 1.0),)
    assert bundle.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert check(bundle) == []


def test_writes_what_it_opens(tmp_path: Path) -> None:
    written = make_tiny_bundle(tmp_path / "tiny")
    assert names(tmp_path / "tiny") == {"model.gguf", "pliant.json"}
    assert names(tmp_path) == {"tiny"}
    opened = open_bundle(tmp_path / "tiny")
    assert opened.name == "tiny"
    assert opened.levels == written.levels
    assert tuple(level.ratio for level in opened.levels) == RATIOS
    model = (tmp_path / "tiny/model.gguf").read_bytes()
    assert opened.sha256 == hashlib.sha256(model).hexdigest()
    assert opened.manifest is not None
    assert opened.manifest.provenance == {"tool": "tests"}
    assert opened.manifest.tokenizer["model"] == "gpt2"
    assert check(opened) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX file modes")
def test_files_get_normal_modes(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "file").touch()
    bundle = make_tiny_bundle(tmp_path / "tiny")
    assert bundle.path.stat().st_mode == plain.stat().st_mode
    for name in ("model.gguf", "pliant.json"):
        assert (bundle.path / name).stat().st_mode == (plain / "file").stat().st_mode


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="no folder can be synced here")
def test_a_bundle_is_on_disk_when_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, bool]] = []
    fsync = os.fsync

    def recording(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, (tmp_path / "tiny").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    make_tiny_bundle(tmp_path / "tiny")
    files = [tmp_path / "tiny" / name for name in ("model.gguf", "pliant.json")]
    for path in (*files, tmp_path / "tiny"):
        assert (path.stat().st_ino, False) in synced
    assert synced[-1] == (tmp_path.stat().st_ino, True)


def test_levels_by_ratio(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    assert bundle.level(0.5) is bundle.levels[1]
    assert bundle.level(0.1 + 0.2) is bundle.levels[0]
    for ratio in (0.4, 0.0, 2.0, float("nan")):
        with pytest.raises(UnknownLevelError, match=r"tiny has no level .* 0\.3, 0\.5, 1$"):
            bundle.level(ratio)


def test_replaces_an_older_bundle(tmp_path: Path) -> None:
    old = make_tiny_bundle(tmp_path / "tiny")
    again = write_bundle(old.path, old.gguf.path, old.levels[1:], {"run": 2})
    assert [level.ratio for level in again.levels] == [0.5, 1.0]
    assert again.sha256 == old.sha256
    assert names(tmp_path) == {"tiny"}


def test_writes_into_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    assert make_tiny_bundle(tmp_path / "tiny").name == "tiny"


def test_replaces_nothing_but_a_bundle(tmp_path: Path) -> None:
    path = make_tiny_gguf(tmp_path / "m.gguf")
    levels = open_bundle(path).levels
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="not empty and not a bundle"):
        write_bundle(tmp_path / "mine", path, levels, {})
    with pytest.raises(BundleError, match="not a folder"):
        write_bundle(path, path, levels, {})
    bundle = make_tiny_bundle(tmp_path / "tiny")
    (bundle.path / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"also holds notes\.txt"):
        write_bundle(bundle.path, path, levels, {})
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(BundleError, match="not a folder"):
        write_bundle(tmp_path / "link", path, levels, {})
    with pytest.raises(BundleError, match="cannot name a bundle"):
        write_bundle(tmp_path / "a b", path, levels, {})
    with pytest.raises(BundleError, match="not a folder to write in"):
        write_bundle(path / "inside", path, levels, {})
    with pytest.raises(BundleError, match="cannot look into .* too long"):
        write_bundle(tmp_path / ("a" * 5000) / "tiny", path, levels, {})
    assert names(tmp_path / "mine") == {"notes.txt"}
    assert names(tmp_path) == {"m.gguf", "mine", "tiny", "link"}


def test_a_failure_leaves_the_older_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make_tiny_bundle(tmp_path / "tiny")

    def full_disk(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full_disk)
        with pytest.raises(BundleError, match="No space left"):
            write_bundle(old.path, old.gguf.path, old.levels, {"run": 2})
    with pytest.raises(BundleError, match="cannot write"):
        write_bundle(old.path, old.gguf.path, old.levels, {"run": object()})
    with pytest.raises(PlanError):
        write_bundle(old.path, old.gguf.path, old.levels[:-1], {})
    rename = Path.rename

    def rename_fails(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename_fails)
        with pytest.raises(BundleError, match="Input/output"):
            write_bundle(old.path, old.gguf.path, old.levels, {"run": 2})
    assert names(tmp_path) == {"tiny"}
    again = open_bundle(old.path)
    assert check(again) == []
    assert again.manifest is not None
    assert again.manifest.provenance == {"tool": "tests"}


def test_check_finds_what_is_wrong(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    manifest = json.loads((bundle.path / "pliant.json").read_text())
    for name in ("card.md", "longer.md"):
        manifest["files"][name] = {"bytes": 3, "sha256": "0" * 64}
    (bundle.path / "pliant.json").write_text(json.dumps(manifest))
    (bundle.path / "longer.md").write_text("long")
    (bundle.path / "notes.txt").write_text("mine")
    with bundle.gguf.path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"\x01\x02\x03\x04")
    findings = check(open_bundle(bundle.path))
    assert [(finding.problem, finding.file) for finding in findings] == [
        ("sha256", "model.gguf"),
        ("missing", "card.md"),
        ("size", "longer.md"),
        ("foreign", "notes.txt"),
    ]


def test_a_truncated_or_missing_model_is_refused(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    data = bundle.gguf.path.read_bytes()
    bundle.gguf.path.write_bytes(data[:-1])
    with pytest.raises(CorruptFileError, match="the manifest says"):
        open_bundle(bundle.path)
    bundle.gguf.path.unlink()
    with pytest.raises(CorruptFileError, match=r"model\.gguf is missing"):
        open_bundle(bundle.path)


@pytest.mark.parametrize("name", ["model.gguf", "pliant.json"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny")
    (bundle.path / name).rename(tmp_path / name)
    (bundle.path / name).symlink_to(tmp_path / name)
    with pytest.raises(CorruptFileError, match="leads out of the bundle"):
        open_bundle(bundle.path)


def test_describes_a_bundle(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny", type="Q8_0")
    described = json.loads(json.dumps(describe(bundle).to_json()))
    weights = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96) + 320 * 64
    assert described["parameters"] == weights + 5 * 64
    assert [share["type"] for share in described["types"]] == ["Q8_0", "F32"]
    assert described["types"][0] == {
        "type": "Q8_0",
        "tensors": 15,
        "parameters": weights,
        "nbytes": weights // 32 * 34,
    }
    smallest, _, full = described["levels"]
    assert smallest["plan"] == [[1, 2, 32]] * 2
    unused = 2 * 64 * (2 * 32 + 2 * 16 + 3 * 64)
    assert (smallest["parameters"], full["parameters"]) == (
        weights + 5 * 64 - unused,
        weights + 5 * 64,
    )
    assert described["files"] == {
        name: (bundle.path / name).stat().st_size for name in ("model.gguf", "pliant.json")
    }
    assert described["architecture"]["num_kv_heads"] == 2
    assert described["is_elastic"]


def test_installed_bundles_open_by_name(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_tiny_bundle(home / "bundles/mine")
    (home / "bundles/other").mkdir()
    (home / "bundles/broken").mkdir()
    (home / "bundles/broken/pliant.json").write_text("{")
    user = [entry for entry in installed_bundles() if entry.origin == "user"]
    assert [entry.name for entry in user] == ["broken", "mine"]
    assert user[0].error is not None
    assert (user[1].error, user[1].num_levels) == (None, 3)
    assert user[1].nbytes == bundle.gguf.size
    # The installed one, not a folder of that name which happens to be here.
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert open_bundle("mine").path == bundle.path
    with pytest.raises(BundleNotFoundError, match="is not a bundle"):
        open_bundle("./mine")


@pytest.mark.parametrize("source", ["nonesuch", "../nonesuch", "", "a\0b", "x" * 5000, "/dev/null"])
def test_unknown_sources(home: Path, source: str) -> None:
    with pytest.raises(BundleNotFoundError):
        open_bundle(source)
