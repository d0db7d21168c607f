"""`pliant compress`."""

import io
import json
import re
from pathlib import Path

import pytest

from pliant.cli import main
from support.bundle_with_tlm import make_bundle_with_tlm

KEPT = "`code` 12 NASA"
TEXT = "the cat sat on the mat and then it ran away from all of us\nwho saw it?"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_bundle_with_tlm(tmp_path_factory.mktemp("tlm") / "tiny").path)


@pytest.fixture(autouse=True)
def piped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text comes in by a pipe, with a byte that is no UTF-8."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"`piped \xff` 7")))


def test_what_is_protected_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", KEPT]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{KEPT}\n"
    assert shown.err.endswith("ratio 1.00, asked for 0.5\n")


def test_shortens_with_the_bundles_tlm(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", TEXT, "--bundle", bundle, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == "".join(TEXT[start:end] for start, end in found["kept"])
    assert 0.3 < found["ratio"] <= 0.5
    assert main(["compress", TEXT, "--bundle", bundle]) == 0
    shown = capsys.readouterr()
    assert shown.out == found["text"] + "\n"
    before, after = found["num_original_tokens"], found["num_tokens"]
    assert shown.err.startswith(f"{before} tokens before, {after} after: ratio 0.")


def test_on_a_terminal_what_went_is_struck_through(
    bundle: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["compress", TEXT, "--bundle", bundle]) == 0
    shown = capsys.readouterr().out
    dropped = re.findall(r"\x1b\[2;9m(.*?)\x1b\[0m", shown, re.DOTALL)
    assert re.sub(r"\x1b\[[\d;]*m", "", shown) == TEXT + "\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["compress", TEXT, "--bundle", bundle]) == 0
    plain = capsys.readouterr().out
    assert len(plain) == len(TEXT) + 1 - len("".join(dropped))
    assert plain.endswith("\nwho saw it?\n")


def test_the_system_message_goes_only_when_it_may(
    bundle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    system = "be short and kind and never say more than you must"
    command = ["compress", "who?", "--system", system, "--bundle", bundle, "--ratio", "0.6"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"{system}\nwho?\n"
    assert main([*command, "--system-too"]) == 0
    assert len(capsys.readouterr().out) < len(system)


@pytest.mark.parametrize("arguments", [["-"], []])
def test_reads_what_is_piped_in(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", *arguments]) == 0
    assert capsys.readouterr().out == "`piped \ufffd` 7\n"


def test_reads_a_file_and_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text"
    path.write_text("`学校`")
    assert main(["compress", "--file", str(path), "--ratio", "0.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["text"], found["kept"], found["asked"]) == ("`学校`", [[0, 4]], 0.1)
    assert found["num_tokens"] == found["num_original_tokens"] > 1


def test_a_system_message_makes_it_a_chat(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "--system", "be short", "who asks?"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "be short\nwho asks?\n"
    assert main(["compress", "--system", "be short", "who asks?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": "who asks?"},
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["one (two three)", "--marker", "one", ")"],
        ["one (two three)", "--marker=one", ")"],
        ["(one) -two-", "--marker", "(", ")", "--marker", "-", "-"],
        ["one -two-", "--marker", "on", "e", "--marker", "-two", "-"],
        ["one two three", "--ratio", "1", "--protect", "none"],
        ["1 2 3", "--protect", "numbers"],
    ],
)
def test_options_say_what_stays(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", *arguments]) == 0
    assert capsys.readouterr().out == f"{arguments[0]}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a b", "--ratio", "0"], "a prompt ratio is above 0 and at most 1, not 0.0"),
        (["a b", "--ratio", "nan"], "a prompt ratio is above 0"),
        (["a b", "--protect", "names,verbs"], "--protect does not know verbs; it knows question,"),
        (["a b", "--marker", "", "x"], "a marker is a pair of texts"),
        (["a b", "--marker", "x"], "--marker takes two texts, OPEN CLOSE; 'x' is only one"),
        (["a b", "--marker"], "--marker"),
        (["a b", "--system-too"], "give one with --system"),
        (["a b", "--file", "x"], "not both"),
        (["--file", "/no/such/file"], "/no/such/file cannot be read: No such file"),
        (["--file", "/"], "/ cannot be read: it is not a file"),
        (["--file", "/dev/zero"], "/dev/zero cannot be read: it is not a file"),
        (["a b", "--bundle", "no-such"], "no-such"),
    ],
)
def test_bad_input_is_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compress", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_pipe_without_an_end_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/zero").open("r", encoding="utf-8") as endless:
        monkeypatch.setattr("sys.stdin", endless)
        assert main(["compress"]) == 2
        assert main(["run"]) == 2
    assert capsys.readouterr().err.count("more than 50 million characters are piped in") == 2


def test_a_terminal_alone_is_no_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert main(["compress"]) == 2
    assert "no text: give one as an argument, pipe it in, or name a --file" in (
        capsys.readouterr().err
    )
