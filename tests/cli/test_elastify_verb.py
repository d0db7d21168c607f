"""`pliant elastify`: what it passes on, and what it prints where."""

import io
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pliant.elastify
from pliant.cli import main
from pliant.cli.app import load_verb
from pliant.elastify import ElastifyOptions
from pliant.elastify.recovery.options import Recovery, RecoveryOptions
from support.hub_server import serve
from support.tiny_hf import make_folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Arguments of each call of the library's `elastify`, which is replaced."""
    made: list[dict[str, Any]] = []

    def fake(hf_dir: Path, out: Path, **options: Any) -> SimpleNamespace:
        options.pop("report")("step 1")
        assert list(options.pop("track")([1, 2], "step 2", 2)) == [1, 2]
        made.append({"hf_dir": hf_dir, "out": out, **options})
        return SimpleNamespace(path=out)

    monkeypatch.setattr(pliant.elastify, "elastify", fake, raising=False)
    return made


def test_only_given_options_are_passed(
    calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["elastify", "hf", "--out", "b", "--calibration", "c.txt", "--anchors", "2"]) == 0
    assert calls == [
        {
            "hf_dir": Path("hf"),
            "out": Path("b"),
            "calibration": Path("c.txt"),
            "options": ElastifyOptions(anchors=2),
        }
    ]
    assert capsys.readouterr() == ("b\n", "step 1\n")


def recovery_of(calls: list[dict[str, Any]], *argv: str) -> Any:
    assert main(["elastify", "hf", "--out", "b", "--calibration", "c.txt", *argv]) == 0
    return calls[-1]["options"].recovery


def test_recovery_is_asked_for_by_its_data_or_by_name(calls: list[dict[str, Any]]) -> None:
    assert recovery_of(calls) is None
    assert recovery_of(calls, "--recover") == Recovery(Path("c.txt"))
    assert recovery_of(calls, "--recovery-data", "d.jsonl") == Recovery(Path("d.jsonl"))
    both = recovery_of(calls, "--recover", "--recovery-data", "d.jsonl")
    assert both == Recovery(Path("d.jsonl"))
    assert recovery_of(
        calls, "--recover", "--rank", "4", "--loss", "lm", "--recovery-steps", "9", "--ray", "auto"
    ) == Recovery(Path("c.txt"), RecoveryOptions(rank=4, loss="lm", steps=9))
    assert calls[-1]["options"].ray == "auto"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--rank", "4"], "add --recover"),
        (["--recover", "--rank", "0"], "rank is 0"),
        (["--recover", "--loss", "mse"], "'mse' is not one of 'distill', 'lm'"),
    ],
)
def test_recovery_options_that_make_no_sense(
    calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    assert main(["elastify", "hf", "--out", "b", "--calibration", "c.txt", *argv]) == 2
    assert said in capsys.readouterr().err
    assert calls == []


@pytest.mark.parametrize(
    ("argv", "address"),
    [
        (["--ray"], "auto"),
        (["--ray", "--anchors", "2"], "auto"),
        (["--ray", "local"], "local"),
        (["--ray=10.0.0.1:6379", "--anchors", "2"], "10.0.0.1:6379"),
    ],
)
def test_the_address_of_a_cluster_may_be_left_out(
    calls: list[dict[str, Any]], argv: list[str], address: str
) -> None:
    assert main(["elastify", "hf", "--out", "b", "--calibration", "c.txt", *argv]) == 0
    options = calls[0]["options"]
    assert (options.ray, options.anchors) == (address, 2 if "--anchors" in argv else None)


@pytest.mark.parametrize("missing", ["--out", "--calibration"])
def test_what_is_required(calls: list[dict[str, Any]], missing: str) -> None:
    argv = ["elastify", "hf", "--out", "b", "--calibration", "c"]
    position = argv.index(missing)
    assert main(argv[:position] + argv[position + 2 :]) == 2
    assert calls == []


def test_defaults_that_the_help_shows_are_those_of_the_library() -> None:
    defaults = ElastifyOptions()
    shown = {param.name: param.show_default for param in load_verb("elastify").params}
    for name in (
        "quantization", "importance", "plan", "windows", "window_tokens", "dtype", "device",
    ):  # fmt: skip
        assert shown[name] == str(getattr(defaults, name))
    assert defaults.anchors is None
    options = RecoveryOptions()
    assert shown["rank"] == str(options.rank)
    assert shown["loss"] == options.loss
    assert shown["recovery_steps"] == str(options.steps)


def test_quantizations_that_the_help_names_are_those_of_the_library() -> None:
    from pliant.elastify.quantization import QUANTIZATIONS

    (shown,) = (
        param.help for param in load_verb("elastify").params if param.name == "quantization"
    )
    assert set(re.findall(r"\b[FQ]\d\w*", shown)) == set(QUANTIZATIONS)


def test_a_name_of_the_hub_is_pulled_once(
    calls: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("PLIANT_HOME", str(tmp_path))
    arguments = ["elastify", "org/tiny", "--out", "b", "--calibration", "c.txt"]
    with serve({"config.json": b"{}", "model.safetensors": b"x"}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert main(arguments) == 0
    assert main(arguments) == 0  # without the hub
    folder = tmp_path / "checkpoints" / "org" / "tiny"
    assert [call["hf_dir"] for call in calls] == [folder, folder]


def test_a_name_of_the_hub_offline(
    calls: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("PLIANT_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert main(["elastify", "org/tiny", "--out", "b", "--calibration", "c.txt"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: http://127.0.0.1:9 cannot be reached")
    assert error.count("\n") == 1
    assert calls == []


def test_plan_only_says_sizes_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_folder(tmp_path / "source", intermediate_size=256)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    arguments = ["elastify", "source", "--out", "b", "--calibration", "c.txt", "--plan-only"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for text in (
        "level",
        "parameters",
        "widths of layers",
        "accuracy",
        "bundle",
        "of memory",
        "of disk",
    ):
        assert text in shown
    assert sorted(tmp_path.rglob("*")) == before
    (source / "model.safetensors").write_bytes(b"")
    assert main(arguments) == 2
    assert "model.safetensors is cut short" in capsys.readouterr().err


def test_bars_are_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from pliant.cli.progress import tracking

    for is_terminal in (False, True):
        written = io.StringIO()
        written.isatty = lambda is_terminal=is_terminal: is_terminal  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stderr", written)
        monkeypatch.setenv("TERM", "xterm")
        with tracking() as track:
            assert list(track(range(3), "export", 3)) == [0, 1, 2]
        assert ("export" in written.getvalue()) is is_terminal


def test_absent_extra(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['gguf'] = None; from pliant.cli import main;"
        "sys.exit(main(['elastify', '.', '--out', 'b', '--calibration', 'c.txt']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "pip install 'pliant[elastify]'" in done.stderr
