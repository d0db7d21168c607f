import io
import os
import signal
import sys
from typing import Any

import pytest

import pliant
from pliant.cli import main
from pliant.cli.chat import Chat, Interrupt
from pliant.cli.output import terminal_safe
from pliant.engine.sampling import SamplingParams
from pliant.errors import ContextOverflowError, UnknownLevelError
from support.fake_text_model import FakeTextModel
from support.synthetic_latency import make_latency

WORDS = "one two three four"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeTextModel:
    fake = FakeTextModel(lambda messages, level: WORDS)
    monkeypatch.setattr(pliant, "load", lambda source, options: fake, raising=False)
    calibrations = []

    def calibrated(_model: Any, before_calibration: Any) -> Any:
        calibrations.append(_model)
        assert len(calibrations) == 1
        before_calibration(15.0)
        return make_latency()

    monkeypatch.setattr("pliant.cli.chat.load_or_calibrate", calibrated)
    return fake


def _chat(model: FakeTextModel, level: float = 1.0) -> Chat:
    return Chat(model, 32, SamplingParams(), level=level)  # type: ignore[arg-type]


def _type(
    monkeypatch: pytest.MonkeyPatch, *lines: str | BaseException | type[BaseException]
) -> None:
    """What a person enters at the prompt; the end of it is Ctrl-D."""
    waiting: list[str | BaseException | type[BaseException]] = list(lines)

    def read(_prompt: str) -> str:
        line = waiting.pop(0) if waiting else EOFError
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)


def test_one_prompt_one_answer(model: FakeTextModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "fake", "hello"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{WORDS}\n"
    assert err.startswith("[level 1, TTFT ") and "SLO" not in err
    assert model.asked == [([{"role": "user", "content": "hello"}], 1.0, 256)]
    assert model.is_closed


def test_piped_text_is_the_prompt(model: FakeTextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("from\na pipe\n"))
    assert main(["run", "fake", "--max-tokens", "2"]) == 0
    assert model.asked == [([{"role": "user", "content": "from\na pipe"}], 1.0, 2)]


def test_an_empty_pipe_is_an_error(
    model: FakeTextModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(" \n"))
    assert main(["run", "fake"]) == 2
    assert "no prompt" in capsys.readouterr().err


def test_ctrl_c_during_a_single_answer_ends_the_program(
    model: FakeTextModel, capsys: pytest.CaptureFixture[str]
) -> None:
    model.before_token = lambda index: os.kill(os.getpid(), signal.SIGINT) if index == 1 else None
    assert main(["run", "fake", "hello"]) == 130
    out, err = capsys.readouterr()
    assert out == "one two\n" and "stopped" in err


def test_a_level_is_run_as_asked(model: FakeTextModel) -> None:
    assert main(["run", "fake", "hello", "--level", "0.3"]) == 0
    assert model.asked[0][1] == 0.3


def test_an_slo_chooses_the_level_and_is_judged(
    model: FakeTextModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "fake", "hello", "--ttft", "80%", "--tpot", "0.6"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{WORDS}\n"
    assert "at most 15 s" in err
    assert "level 0.5" in err and "(predicted" in err and "SLO <80%,60%> met" in err


def test_an_slo_out_of_reach_is_flagged(
    model: FakeTextModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "fake", "hello", "--ttft", "0.0001ms"]) == 0
    err = capsys.readouterr().err
    assert "level 0.2" in err and "missed" in err and "closest" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--level", "0.35"], "no level 0.35"),
        (["--level", "0.5", "--ttft", "0.4"], "give one kind"),
        (["--ttft", "fast"], "ttft is 'fast'"),
        (["--tpot", "1.2"], "tpot is '1.2'"),
        (["--temperature", "-1"], "temperature"),
        (["--layout", "sideways"], "layout is 'sideways'"),
        (["--threads", "0"], "threads is 0"),
    ],
)
def test_bad_options_are_one_line_errors(
    model: FakeTextModel,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert main(["run", "fake", "hello", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1


def test_a_conversation_keeps_its_messages(
    model: FakeTextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _type(monkeypatch, "first", "second", "/reset", "third", "/bye", "never")
    _chat(model).repl()
    contents = [[message["content"] for message in prompt] for prompt, _, _ in model.asked]
    assert contents == [["first"], ["first", WORDS, "second"], ["third"]]


def test_level_and_slo_commands_change_the_pace(
    model: FakeTextModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _type(
        monkeypatch,
        "/level 0.3", "a", "/reset", "/slo 80% 0.6", "b", "/reset", "/slo - 0.6", "c", "/slo off",
        "d",
    )  # fmt: skip
    _chat(model).repl()
    assert [level for _, level, _ in model.asked] == [0.3, 0.5, 0.5, 1.0]
    assert "SLO <80%,60%>" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/level 0.35", "no level 0.35"),
        ("/level half", "level is 'half'"),
        ("/slo 7 7", "ttft is '7'"),
        ("/slo", "no such command: /slo"),
        ("/slo 1 1 1", "no such command"),
        ("/dance now", "no such command: /dance now"),
        ("/", "no such command"),
    ],
)
def test_bad_commands_are_explained_and_change_nothing(
    model: FakeTextModel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    message: str,
) -> None:
    _type(monkeypatch, line, "hello")
    _chat(model, 0.4).repl()
    assert message in capsys.readouterr().err
    assert model.asked[0][1] == 0.4


def test_help_names_every_command(
    model: FakeTextModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _type(monkeypatch, "", "/help")
    _chat(model).repl()
    err = capsys.readouterr().err
    assert all(word in err for word in ("/level", "/slo", "/reset", "/help", "/bye", "Ctrl-C"))
    assert model.asked == []


def test_a_request_that_fails_is_forgotten(
    model: FakeTextModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse_long(messages: Any, level: float) -> str:
        if messages[-1]["content"] == "long":
            raise ContextOverflowError("does not fit", needed_tokens=9, available_tokens=8)
        return WORDS

    model.answer = refuse_long
    _type(monkeypatch, "long", "short")
    _chat(model).repl()
    assert "error: does not fit" in capsys.readouterr().err
    assert model.asked[-1][0] == [{"role": "user", "content": "short"}]


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(
    model: FakeTextModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press_at_third_token(index: int) -> None:
        if index == 2 and len(model.asked) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    model.before_token = press_at_third_token
    _type(monkeypatch, "first", "second")
    _chat(model).repl()
    out, err = capsys.readouterr()
    assert out == f"one two three\n{WORDS}\n"
    assert "stopped" in err
    assert model.asked[1][0][1] == {"role": "assistant", "content": "one two three"}


def test_ctrl_c_twice_at_the_prompt_leaves(
    model: FakeTextModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pressed = KeyboardInterrupt
    _type(monkeypatch, pressed, "hello", pressed, pressed, "never")
    _chat(model).repl()
    assert len(model.asked) == 1
    assert capsys.readouterr().err.count("Ctrl-C again") == 2


def test_bytes_that_are_no_text_do_not_end_the_chat(
    model: FakeTextModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    garbage = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    _type(monkeypatch, garbage, "hello")
    _chat(model).repl()
    assert "not UTF-8" in capsys.readouterr().err and len(model.asked) == 1


def test_a_second_ctrl_c_during_an_answer_gets_through() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.is_set()
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_unknown_level_is_refused_before_the_chat(model: FakeTextModel) -> None:
    with pytest.raises(UnknownLevelError):
        _chat(model, 0.35)


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert terminal_safe("a\tb\nc\x1b[2J\x9b\x7f") == "a\tb\nc\ufffd[2J\ufffd\ufffd"
