"""Downloads with the real huggingface_hub from a local server that speaks the hub's API."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pliant.bundle import installed_bundles, open_bundle
from pliant.bundle.hub import is_repository, pull_checkpoint, pull_gguf, pulled_checkpoint
from pliant.errors import BundleError, HubError, UnsupportedModelError
from support.hub_server import COMMIT, Hub, serve
from support.tiny_gguf import make_tiny_gguf

pytest.importorskip("huggingface_hub")

CHECKPOINT = {
    "config.json": b"{}",
    "tokenizer.json": b"{}" * 10,
    "model.safetensors": bytes(range(256)) * 4000,
    "README.md": b"not needed",
    "original/consolidated.safetensors": b"not needed",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("PLIANT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    # Wait neither between tries of the client nor for its telemetry.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serve(dict(CHECKPOINT)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_gets_what_is_needed_once(hub: Hub, tmp_path: Path) -> None:
    assert pulled_checkpoint("org/tiny") is None
    folder = pull_checkpoint("org/tiny")
    assert folder == tmp_path / "home" / "checkpoints" / "org" / "tiny"
    assert pulled_checkpoint("org/tiny") == folder
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {"config.json", "tokenizer.json", "model.safetensors", "pliant-pull.json"}
    assert (folder / "model.safetensors").read_bytes() == CHECKPOINT["model.safetensors"]
    assert json.loads((folder / "pliant-pull.json").read_text())["commit"] == COMMIT
    assert pull_checkpoint("org/tiny", "v1") == folder
    assert len(hub.transferred("model.safetensors")) == 1


def test_an_interrupted_download_goes_on(hub: Hub) -> None:
    megabyte = 1 << 20
    # huggingface_hub writes, and so resumes, in pieces of 10 MB.
    hub.files["model.safetensors"] = content = bytes(range(256)) * 4096 * 12
    hub.cut = 11 * megabyte
    with pytest.raises(HubError, match="it goes on where it stopped"):
        pull_checkpoint("org/tiny")
    assert pulled_checkpoint("org/tiny") is None
    hub.cut, hub.down = None, False
    hub.requests.clear()
    folder = pull_checkpoint("org/tiny")
    assert (folder / "model.safetensors").read_bytes() == content
    (start,) = hub.transferred("model.safetensors")
    assert start is not None
    assert int(start.removeprefix("bytes=").rstrip("-")) >= 10_000_000


def test_damaged_content_is_not_taken(hub: Hub) -> None:
    hub.files["config.json"] = b'{"model_type": "llama"}'
    hub.damaged = True
    with pytest.raises(HubError, match="of org/tiny came damaged"):
        pull_checkpoint("org/tiny")
    assert pulled_checkpoint("org/tiny") is None
    hub.damaged = False
    assert (pull_checkpoint("org/tiny") / "config.json").read_bytes() == hub.files["config.json"]


def test_a_full_disk_is_noticed_before(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(HubError, match="takes 1024022 bytes, but .* has 1000 left"):
        pull_checkpoint("org/tiny")
    assert not hub.transferred("config.json")


def test_the_token_of_the_environment_is_sent(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    with pytest.raises(HubError, match="has no model org/tiny, or it is private.*HF_TOKEN"):
        pull_checkpoint("org/tiny")
    hub.gated = True
    with pytest.raises(HubError, match="accept its terms: do so at http.*org/tiny"):
        pull_checkpoint("org/tiny")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert pull_checkpoint("org/tiny").is_dir()


def test_says_what_is_not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubError, match="no revision 'v9'"):
        pull_checkpoint("org/tiny", "v9")
    with pytest.raises(HubError, match="has no model org/other"):
        pull_checkpoint("org/other")
    with pytest.raises(HubError, match="'tiny' is not the name of a model"):
        pull_checkpoint("tiny")
    hub.files = {"tiny-q8.gguf": b"", "config.json": b"{}"}
    with pytest.raises(HubError, match=r"no \.safetensors weights; it has tiny-q8\.gguf"):
        pull_checkpoint("org/tiny")
    with pytest.raises(HubError, match=r"no file 'tiny\.gguf'; it has tiny-q8\.gguf"):
        pull_gguf("org/tiny", "tiny.gguf")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"127\.0\.0\.1:9 cannot be reached"):
        pull_checkpoint("org/tiny")


def test_a_gguf_file_becomes_an_installed_bundle(hub: Hub, tmp_path: Path) -> None:
    hub.files["tiny-Q8_0.gguf"] = make_tiny_gguf(tmp_path / "x.gguf", type="Q8_0").read_bytes()
    bundle = pull_gguf("org/tiny", "tiny-Q8_0.gguf")
    assert open_bundle("tiny-Q8_0").sha256 == bundle.sha256
    assert "tiny-Q8_0" in {installed.name for installed in installed_bundles()}
    assert bundle.manifest is not None
    assert bundle.manifest.provenance["source"]["commit"] == COMMIT
    assert pull_gguf("org/tiny", "tiny-Q8_0.gguf", name="other").name == "other"
    assert not list((tmp_path / "home" / "downloads").rglob("*.gguf"))
    with pytest.raises(BundleError, match="cannot name a bundle"):
        pull_gguf("org/tiny", "tiny-Q8_0.gguf", name="../x")


def test_a_gguf_that_cannot_run_is_not_kept(hub: Hub, tmp_path: Path) -> None:
    data = make_tiny_gguf(tmp_path / "x.gguf").read_bytes()
    name = b"general.architecture" + (8).to_bytes(4, "little") + (5).to_bytes(8, "little")
    hub.files["bad.gguf"] = data.replace(name + b"llama", name + b"mamba")
    with pytest.raises(UnsupportedModelError, match="mamba"):
        pull_gguf("org/tiny", "bad.gguf")
    assert not list((tmp_path / "home").rglob("*.gguf"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("org/tiny", True), ("meta-llama/Llama-3.2-1B", True), ("a/b/c", False), ("../x", False)]
    + [("x/..", False), ("x", False), ("/x", False), ("./x/y", False), ("a/b\n", False)],
)
def test_names_of_repositories(name: str, expected: bool) -> None:
    assert is_repository(name) is expected
