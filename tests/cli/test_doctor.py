"""`pliant doctor`: what it finds, what it says about what is missing, and its exit code."""

import json
import platform
import re
import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from pliant.cli import doctor, main
from pliant.cli.doctor import Finding, State, examine, extra_packages
from pliant.errors import LibraryError
from pliant.ggml import cpu, library

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLIANT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PLIANT_CACHE", str(tmp_path / "cache"))


def finding(name: str) -> Finding:
    return next(found for found in examine() if found.name == name)


def test_this_machine_can_run_pliant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert library.load().version in shown
    assert shown.endswith("pliant can be used\n")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["usable"] is True
    assert {"pliant", "Python", "ggml", "CPU", "memory"} <= {f["name"] for f in shown["findings"]}
    assert {f["state"] for f in shown["findings"]} <= {state.value for state in State}


def test_looking_creates_no_folder(tmp_path: Path) -> None:
    examine()
    assert list(tmp_path.iterdir()) == []


def test_missing_library_is_said_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load() -> None:
        raise LibraryError("llama-cpp-python is not installed")

    monkeypatch.setattr(library, "load", load)
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "missing   ggml" in shown
    assert "mend: CMAKE_ARGS=-DLLAVA_BUILD=OFF pip install" in shown
    assert "pliant cannot be used" in shown


@pytest.mark.parametrize(
    ("machine", "features", "state"),
    [
        ("x86_64", ("avx", "avx2"), State.OK),
        ("AMD64", ("avx",), State.WARNING),
        ("aarch64", ("neon",), State.OK),
    ],
)
def test_slow_cpu(
    monkeypatch: pytest.MonkeyPatch, machine: str, features: tuple[str, ...], state: State
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu, "cpu_features", lambda: features)
    assert finding("CPU").state is state


def test_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(available=2**20, total=2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert finding("memory") == Finding(
        "memory", State.WARNING, "1.0 MiB available of 1.0 GiB", "close other programs"
    )


def test_little_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * 2**20))
    assert finding("cache folder").state is State.WARNING
    assert "PLIANT_CACHE" in (finding("cache folder").remedy or "")


def test_folder_that_is_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLIANT_HOME", str(tmp_path / "file" / "inside"))
    found = finding("home folder")
    assert found.state is State.WARNING
    assert "PLIANT_HOME" in (found.remedy or "")


def test_a_folder_of_impossible_name_is_no_exception(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLIANT_CACHE", "a" * 5000 + "\x1b[31m")
    assert main(["doctor"]) == 0
    assert "\x1b[31m" not in capsys.readouterr().out


def test_extra_packages_are_those_of_pyproject() -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    lines = project["optional-dependencies"]["elastify"]
    names = {re.split(r"[<>=]", line)[0].replace("_", "-") for line in lines}
    assert set(extra_packages("elastify")) == names


def test_absent_extra_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor, "_installed_version", lambda name: None if name == "torch" else "1.0"
    )
    found = finding("extra elastify")
    assert found.state is State.OPTIONAL
    assert "torch absent" in found.detail
    assert found.remedy == "to use `pliant elastify`: pip install 'pliant[elastify]'"
