"""`pliant run` in a real terminal, on a small random model."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.tiny_bundle import make_tiny_bundle

pexpect = pytest.importorskip("pexpect")

TIMEOUT_S = 30
PLIANT = str(Path(sys.executable).with_name("pliant"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its answers are nonsense, and at 2000 tokens long enough to be stopped."""
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    return make_tiny_bundle(folder, layers=4, hidden=256, ff=512, context=4096).path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    folders = {"PLIANT_CACHE": str(tmp_path), "PLIANT_HOME": str(tmp_path / "home")}
    return {**os.environ, **folders, "TERM": "dumb"}


def _spawn(
    bundle: Path, environment: dict[str, str], max_tokens: int, *options: str
) -> "pexpect.spawn[str]":
    child = pexpect.spawn(
        PLIANT,
        ["run", str(bundle), "--max-tokens", str(max_tokens), *options],
        env=environment,
        timeout=TIMEOUT_S,
        encoding="utf-8",
        codec_errors="replace",
    )
    child.expect(">>> ")
    return child


@pytest.fixture
def chat(bundle: Path, environment: dict[str, str]) -> Iterator["pexpect.spawn[str]"]:
    child = _spawn(bundle, environment, max_tokens=8)
    yield child
    child.close(force=True)


def test_a_conversation_with_commands(chat: "pexpect.spawn[str]") -> None:
    chat.sendline("hello")
    chat.expect(r"\[level 1, TTFT [\d.]+ ms, TPOT [\d.]+ ms\]")
    chat.expect(">>> ")
    chat.sendline("/level 0.5")
    chat.expect(">>> ")
    chat.sendline("again")
    chat.expect(r"\[level 0\.5, TTFT")
    chat.expect(">>> ")
    chat.sendline("/slo 0.9 0.9")
    chat.expect("measuring this device")
    chat.expect(">>> ")
    chat.sendline("quickly")
    chat.expect(r"\[level [\d.]+, TTFT .*predicted.*SLO <90%,90%> (met|missed)")
    chat.expect(">>> ")
    chat.sendline("/reset")
    chat.expect("forgotten")
    chat.expect(">>> ")
    chat.sendline("/bye")
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(
    bundle: Path, environment: dict[str, str]
) -> None:
    child = _spawn(bundle, environment, max_tokens=3000)
    child.sendline("tell me everything")
    child.expect("tell me everything\r\n")
    child.expect("[^\r\n]{20}")
    child.sendintr()
    child.expect(r"\[level 1, .*stopped\]")
    child.expect(">>> ")
    child.sendintr()
    child.expect("Ctrl-C again or /bye leaves")
    child.expect(">>> ")
    child.sendline("/reset")
    child.expect("forgotten")
    child.expect(">>> ")
    child.sendintr()
    child.expect("Ctrl-C again")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_piped_prompt_gives_the_answer_on_stdout(bundle: Path, environment: dict[str, str]) -> None:
    command = [PLIANT, "run", str(bundle), "--max-tokens", "8"]
    results = [
        subprocess.run(
            [*command, *prompt], input=piped, env=environment, capture_output=True, check=True
        )
        for prompt, piped in ((["hello"], b""), ([], b"hello\n"))
    ]
    assert results[0].stdout == results[1].stdout != b""
    assert b"[level 1, TTFT" in results[0].stderr


def test_ctrl_c_during_the_measurement_ends_the_program_quietly(
    bundle: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    command = [PLIANT, "run", str(bundle), "hello", "--ttft", "40%"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        assert process.stderr.readline().startswith("measuring this device")
        process.send_signal(signal.SIGINT)
        assert (process.stdout.read(), process.stderr.read()) == ("", "")
    # Python ends itself by the signal if that came at certain moments of an import.
    assert process.returncode in (130, -signal.SIGINT)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_errors_are_one_line(bundle: Path, environment: dict[str, str]) -> None:
    command = [PLIANT, "run", str(bundle), "hello", "--level", "0.77"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert "0.77" in result.stderr and "0.3, 0.5, 1" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_chat_in_a_context_goes_on_after_it_was_killed(
    bundle: Path, environment: dict[str, str]
) -> None:
    child = _spawn(bundle, environment, 8, "--context", "trip")
    assert "new context trip" in child.before
    child.sendline("hello")
    child.expect(r"\[level 1, TTFT")
    child.expect(">>> ")
    child.sendline("/level 0.5")
    child.expect(">>> ")
    child.sendline("again")
    child.expect(r"\[level 0\.5, TTFT.*context of (\d+) tokens: (\d+) kept")
    assert child.match[1] == child.match[2]
    child.kill(signal.SIGKILL)
    child.expect(pexpect.EOF)
    child.close()
    child = _spawn(bundle, environment, 8, "--context", "trip")
    [tokens] = re.findall(r"context trip \(\w+\), (\d+) tokens", child.before)
    child.sendline("and on")
    child.expect(rf"\[level 1, TTFT.*context of {int(tokens) - 1} tokens: ")
    child.expect(">>> ")
    child.close(force=True)
