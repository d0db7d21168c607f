"""`pliant contexts`."""

import json
from pathlib import Path

import pytest

from pliant.cli import main
from pliant.contexts.contexts import Contexts
from pliant.contexts.lock import FolderLock
from pliant.contexts.options import ContextOptions
from pliant.contexts.storage import StorageProfile
from pliant.engine.model import ElasticModel
from pliant.engine.options import EngineOptions
from pliant.paths import contexts_folder
from support.tiny_bundle import make_tiny_bundle


@pytest.fixture
def ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two contexts of the app `chat`, one of another."""
    monkeypatch.setenv("PLIANT_HOME", str(tmp_path))
    bundle = make_tiny_bundle(tmp_path / "tiny", context=512)
    options = ContextOptions(storage=StorageProfile(1e10, 0.0))
    with (
        ElasticModel(bundle, EngineOptions(threads=1)) as model,
        Contexts(model, options=options) as contexts,
    ):
        made = [contexts.create(app, title=app) for app in ("chat", "chat", "[b]mail")]
        for context in made:
            context.call([{"role": "user", "content": "Turn on the wifi " * 20}], max_tokens=3)
        return [context.id for context in made]


def test_ls(ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contexts", "ls"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in [*ids, "[b]mail"])
    assert main(["contexts", "ls", "--app", "chat", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["contexts"]
    assert [info["id"] for info in found] == ids[1::-1]


def test_ls_works_beside_the_process_that_has_them(ids, capsys) -> None:
    with FolderLock(contexts_folder()):
        assert main(["contexts", "ls"]) == 0
        assert main(["contexts", "rm", ids[0]]) == 2
    assert "another pliant process" in capsys.readouterr().err


def test_nothing_to_list(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PLIANT_HOME", str(tmp_path / "empty"))
    assert main(["contexts", "ls"]) == 0
    assert main(["contexts", "ls", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"contexts": []}
    assert "no contexts" in shown.err


def test_show(ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contexts", "show", ids[0]]) == 0
    shown = capsys.readouterr().out
    assert "user: Turn on the wifi" in shown and "tokens at level 1" in shown
    assert main(["contexts", "show", ids[0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pieces"][0]["role"] == "user"
    assert main(["contexts", "show", ids[2]]) == 2
    assert "error: " in capsys.readouterr().err
    assert main(["contexts", "show", ids[2], "--app", "[b]mail"]) == 0


def test_rm(ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contexts", "rm", ids[0], "nonsense"]) == 2
    assert main(["contexts", "rm", ids[0], ids[1]]) == 0
    capsys.readouterr()
    assert main(["contexts", "ls", "--json"]) == 0
    [left] = json.loads(capsys.readouterr().out)["contexts"]
    assert left["id"] == ids[2]


def test_verify(ids: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contexts", "verify"]) == 0
    assert "3 contexts" in capsys.readouterr().out
    packs = [p for p in contexts_folder().rglob("*") if p.is_file() and "pack" in str(p)]
    largest = max(packs, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    assert main(["contexts", "verify", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"]


def test_contexts_are_named_by_title_too(ids: list[str], capsys) -> None:
    assert main(["contexts", "show", "[b]mail", "--app", "[b]mail"]) == 0
    assert main(["contexts", "rm", "chat"]) == 2
    message = capsys.readouterr().err
    assert message == (
        f"error: 2 contexts are called 'chat': name one by its id ({ids[1]}, {ids[0]})\n"
    )
    assert main(["contexts", "rm", ids[0], ids[0]]) == 0
    assert main(["contexts", "rm", "chat"]) == 0
    assert f"removed {ids[1]}" in capsys.readouterr().err
