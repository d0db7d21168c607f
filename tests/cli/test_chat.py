"""The conversation in a terminal: its messages, its commands, Ctrl-C."""

import os
import signal
from typing import Any

import pytest

from pliant.cli.chat import Chat, Interrupt
from pliant.engine.sampling import SamplingParams
from pliant.errors import ContextOverflowError, UnknownLevelError
from support.fake_text_model import WORDS, FakeTextModel


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


def test_the_system_message_can_change_and_stays_through_a_reset(
    model: FakeTextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _type(monkeypatch, "/system  Be  kind.", "a", "/reset", "b", "/system", "/reset", "c")
    _chat(model).repl()
    contents = [[message["content"] for message in prompt] for prompt, _, _ in model.asked]
    assert contents == [["Be  kind.", "a"], ["Be  kind.", "b"], ["c"]]


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
    commands = ("/level", "/slo", "/system", "/reset", "/help", "/bye", "Ctrl-C")
    assert all(word in err for word in commands)
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


def test_ctrl_c_stops_a_measurement_and_not_the_chat(
    model: FakeTextModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pliant.cli.chat.open_orchestrator", interrupted)
    _type(monkeypatch, "/slo 0.4", "hello")
    _chat(model, 0.4).repl()
    assert "stopped" in capsys.readouterr().err
    assert model.asked[0][1] == 0.4


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
