"""`pliant show` and `pliant list`."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from pliant.bundle import installed_bundles, per_token_cost, write_bundle
from pliant.bundle.bundle import Bundle
from pliant.cli import main
from support.tiny_bundle import RATIOS, make_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle called `tiny` in the home folder."""
    monkeypatch.setenv("PLIANT_HOME", str(tmp_path))
    return make_tiny_bundle(tmp_path / "bundles" / "tiny", kv_heads=4, ff=256)


def test_show_for_people(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(bundle.path)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["level", "cost", "parameters"] in lines
    assert ["layer", "0.3", "0.5", "1"] in lines
    assert ["0", "1/64", "2/128", "4/256"] in lines
    assert "64 wide, 4 heads, 4 KV heads, 256 MLP neurons" in shown.out


def test_show_says_where_the_report_is(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {name: tmp_path / name for name in ("report.html", "report.json")}
    for path in texts.values():
        path.write_text("{}", encoding="utf-8")
    folder = tmp_path / "told"
    told = write_bundle(folder, bundle.gguf.path, bundle.levels, {}, report=texts)
    assert main(["show", str(told.path), "--check"]) == 0
    shown = capsys.readouterr().out.replace("\n", "")
    assert f"how it was made, for a browser: {folder / 'report.html'}" in shown


def test_what_a_bundle_says_of_itself_does_not_reach_the_terminal(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = bundle.path / "pliant.json"
    whole = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(whole | {"provenance": {"[/]a\x1b[2J": "b\x1b[2J"}}))
    assert main(["show", "tiny"]) == 0
    manifest.write_text(json.dumps(whole | {"c\x1b[2J": 1}))
    assert main(["show", "tiny"]) == 2
    shown = capsys.readouterr()
    assert "[/]a\N{REPLACEMENT CHARACTER}[2J" in shown.out
    assert "c\N{REPLACEMENT CHARACTER}[2J" in shown.err
    assert "\x1b" not in shown.out + shown.err


def test_show_for_machines(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "tiny", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["name"] == "tiny"
    assert shown["provenance"] == {"tool": "tests"}
    assert [level["ratio"] for level in shown["levels"]] == list(RATIOS)
    assert set(shown["files"]) == {"model.gguf", "pliant.json"}
    for level, described in zip(bundle.levels, shown["levels"], strict=True):
        full = per_token_cost(bundle.architecture, bundle.levels[-1].plan)
        cost = per_token_cost(bundle.architecture, level.plan) / full
        assert described["cost"] == pytest.approx(cost)
        assert described["plan"] == level.plan.to_json()


def test_show_plain_gguf(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(bundle.gguf.path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert not shown["is_elastic"]
    assert [level["ratio"] for level in shown["levels"]] == [1.0]


def test_show_check_finds_nothing_wrong(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "tiny", "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []


def test_show_check_finds_altered_and_foreign_files(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    with bundle.gguf.path.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    (bundle.path / "notes.txt").write_text("mine")
    assert main(["show", "tiny", "--check", "--json"]) == 2
    shown = capsys.readouterr()
    problems = [finding["problem"] for finding in json.loads(shown.out)["findings"]]
    assert problems == ["sha256", "foreign"]
    assert shown.err.startswith("error: model.gguf was altered")
    assert shown.err.count("\n") == 1


def test_show_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "nonesuch"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: 'nonesuch' is neither")


def test_list_for_people(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["name", "origin", "path", "levels", "size"]
    assert ["tiny", "user", str(bundle.path), "3"] in [row[:4] for row in rows]


@pytest.mark.parametrize("argv", [["list"], ["show", "tiny"]])
def test_a_narrow_terminal_cuts_nothing_off(
    argv: list[str],
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(argv)
    wide = capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "20")
    main(argv)
    assert re.sub("\x1b[^m]*m", "", capsys.readouterr().out) == wide


def test_list_for_machines(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["bundles"]
    assert [entry["name"] for entry in shown] == [entry.name for entry in installed_bundles()]
    assert shown[-1]["path"] == str(bundle.path)
    assert shown[-1]["error"] is None


def test_list_says_why_a_bundle_cannot_be_opened(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle.path / "pliant.json").write_text("{")
    assert main(["list"]) == 0
    assert "tiny cannot be opened: " in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not take such names")
def test_list_shows_odd_paths_as_they_are_and_leaves_out_drafts(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = bundle.path.parents[1] / "[red]\x1b[31m[/x]"
    odd.mkdir(parents=True)
    bundles = bundle.path.parent.rename(odd / "bundles")
    shutil.copytree(bundles / "tiny", bundles / ".tiny.0badcafe.new")
    monkeypatch.setenv("PLIANT_HOME", str(odd))
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "[red]\ufffd[31m[/x]/bundles/tiny" in shown
    assert "\x1b[31m" not in shown and ".new" not in shown


@pytest.mark.parametrize("argv", [["list"], ["show", "tiny"]])
def test_a_home_that_cannot_be_is_one_sentence(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLIANT_HOME", "a" * 5000)
    assert main(argv) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: cannot list ") and shown.err.count("\n") == 1


def test_an_empty_name_is_not_the_working_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", ""]) == 2
    assert capsys.readouterr().err == "error: the name of the bundle is empty\n"
