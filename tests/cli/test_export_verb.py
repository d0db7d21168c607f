"""`pliant export`."""

import json
from pathlib import Path

import pytest

from pliant.bundle import Bundle
from pliant.cli import main
from support.adapters import add_adapters
from support.llama_reference import reference_logits
from support.tiny_bundle import make_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle with adapters, called `tiny`, in the home folder."""
    monkeypatch.setenv("PLIANT_HOME", str(tmp_path))
    return add_adapters(make_tiny_bundle(tmp_path / "bundles" / "tiny"))


def test_writes_a_gguf(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "small.gguf")
    command = ["export", "tiny", "--level", "0.5", "--out", out]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out}\n"
    assert shown.err.startswith("level 0.5, ")
    assert reference_logits(Path(out), [7, 8]).shape == (2, 320)
    assert main(command) == 2
    assert "overwrite it with --force" in capsys.readouterr().err
    assert main([*command, "--force", "--quantization", "Q8_0"]) == 0


def test_writes_a_hugging_face_folder(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hf"
    assert main(["export", "tiny", "--level", "0.5", "--out", str(out), "--format", "hf"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out}\n"
    assert "no tokenizer" in shown.err
    assert json.loads((out / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--level", "0.4"], "has no level 0.4"),
        (["--level", "0.5", "--quantization", "Q3"], "'Q3' is not one of"),
        (["--level", "0.5", "--tokenizer", "x"], "--tokenizer is for --format hf"),
        (
            ["--level", "0.5", "--format", "hf", "--quantization", "F16"],
            "--quantization is for --format gguf",
        ),
    ],
)
def test_what_cannot_be_done_is_explained(
    bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert main(["export", "tiny", "--out", str(tmp_path / "x"), *options]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert not (tmp_path / "x").exists()


def test_show_names_the_adapters(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "tiny"]) == 0
    shown = capsys.readouterr().out
    assert ["level", "cost", "parameters", "adapter"] in [
        line.split() for line in shown.splitlines()
    ]
    assert shown.count("rank 8, F16, ") == 2
