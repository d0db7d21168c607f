import io
import os
import re
import signal
import sys

import pytest

from pliant.cli import main
from pliant.cli.output import terminal_safe
from support.fake_text_model import CONTEXT, WORDS, FakeTextModel


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
    assert main(["run", "fake", " "]) == 2
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


def test_a_strict_slo_out_of_reach_is_refused(
    model: FakeTextModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "fake", "hello", "--ttft", "0.0001ms", "--strict"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "error: no strategy is predicted to meet <0.0001ms,->" in err
    assert re.search(r"the smallest SLO that can be met is --ttft [\d.]+ms$", err, re.MULTILINE)
    assert model.asked == [] and model.is_closed


def test_a_prompt_cannot_be_shortened_without_a_tlm(
    model: FakeTextModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "fake", "hello", "--ttft", "0.4", "--compress", "50%"]) == 2
    assert "error: the prompt cannot be shortened: the bundle has no TLM" in capsys.readouterr().err
    assert model.asked == []


def test_a_strict_slo_within_reach_is_answered(model: FakeTextModel) -> None:
    assert main(["run", "fake", "hello", "--ttft", "80%", "--strict"]) == 0
    assert len(model.asked) == 1


@pytest.mark.parametrize("max_tokens", [CONTEXT, 10**400])
def test_an_answer_longer_than_the_context_does_not_count_for_an_slo(
    model: FakeTextModel, max_tokens: int
) -> None:
    arguments = ["--tpot", "1200ms", "--max-tokens", str(max_tokens)]
    assert main(["run", "fake", "hello", *arguments]) == 0
    (_, level, asked_tokens) = model.asked[0]
    assert (level, asked_tokens) == (0.4, CONTEXT - 10)


def test_a_system_message_comes_first(model: FakeTextModel) -> None:
    assert main(["run", "fake", "hello", "--system", "Be kind."]) == 0
    messages, _, _ = model.asked[0]
    assert messages == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hello"},
    ]


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
        (["--strict"], "--strict is about"),
        (["--compress", "0.5"], "--compress is about"),
        (["--ttft", "0.4", "--compress", "most"], "--compress is 'most'"),
        (["--ttft", "0.4", "--compress", "0"], "--compress is '0'"),
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


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert terminal_safe("a\tb\nc\x1b[2J\x9b\x7f") == "a\tb\nc\ufffd[2J\ufffd\ufffd"
