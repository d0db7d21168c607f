"""`pliant pull` against a local server, and `pliant run`'s way to what it brought."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pliant.bundle import open_bundle
from pliant.cli import main
from support.hub_server import Hub, serve
from support.tiny_gguf import make_tiny_gguf

pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("PLIANT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with serve({"config.json": b"{}", "model.safetensors": b"x" * 100}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_prints_where_the_checkpoint_lies(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "org/tiny", "--revision", "v1"]) == 0
    printed = capsys.readouterr()
    assert (Path(printed.out.strip()) / "model.safetensors").read_bytes() == b"x" * 100
    assert printed.err == ""


def test_a_gguf_file_is_listed_and_found(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files["tiny.gguf"] = make_tiny_gguf(tmp_path / "x.gguf").read_bytes()
    assert main(["pull", "org/tiny", "--gguf", "tiny.gguf", "--name", "mine"]) == 0
    assert "pliant run mine" in capsys.readouterr().err
    assert open_bundle("mine").levels[-1].ratio == 1.0
    assert main(["list"]) == 0
    assert "mine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["org/other"], "has no model org/other"),
        (["org/tiny", "--gguf", "x.gguf"], "no file 'x.gguf'"),
        (["tiny"], "it must be ORG/MODEL"),
    ],
)
def test_errors_are_one_line(
    hub: Hub, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pull", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ") and error.count("\n") == 1


def test_a_name_needs_a_file(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pull", "org/tiny", "--name", "x"]) == 2
    assert "--gguf" in capsys.readouterr().err
