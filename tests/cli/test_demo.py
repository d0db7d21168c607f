import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import pliant
from pliant.cli import main
from pliant.cli.demo_requests import APPS, normalise, read_requests
from pliant.errors import BundleNotFoundError, CorruptFileError
from pliant.slo import OnlineLatency, Orchestrator
from support.fake_text_model import CONTEXT, LATENCY, FakeTextModel


def _rows() -> list[dict[str, Any]]:
    return [
        {
            "app": app,
            "messages": [{"role": "user", "content": f"{app} question {index}"}],
            "choices": [f"Answer {index}", "another"],
            "answer": f"Answer {index}",
            "answer_index": 0,
        }
        for index in range(6)
        for app in APPS
    ]


def _write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _right_from_level_half(messages: Any, level: float) -> str:
    number = messages[-1]["content"].split()[-1]
    return f"answer {number}." if level >= 0.5 else "no [red]idea[/red] \x1b[31m"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeTextModel:
    fake = FakeTextModel(_right_from_level_half)

    def calibrated(model: Any, before_calibration: Any) -> Orchestrator:
        before_calibration(15.0)
        return Orchestrator(model, OnlineLatency(LATENCY))

    monkeypatch.setattr(pliant, "load", lambda source: fake, raising=False)
    monkeypatch.setattr("pliant.cli.demo.open_orchestrator", calibrated)
    return fake


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    return _write(tmp_path / "requests.jsonl", _rows())


def _run_json(requests: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["demo", "--json", "--requests", str(requests)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def test_json_has_one_row_per_request(
    model: FakeTextModel, requests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = _run_json(requests, capsys)
    rows = document["requests"]
    assert len(rows) == 36
    assert {row["app"]: (row["slo"]["ttft"], row["slo"]["tpot"]) for row in rows} == {
        "notification": (1.0, 1.0),
        "setting": (0.8, 0.9),
        "function": (0.6, 0.8),
        "app": (0.4, 0.7),
        "intent": (0.2, 0.6),
        "contact": (0.2, 0.5),
    }
    assert set(rows[0]) >= {
        "app", "slo", "level", "prompt_ratio", "ttft_ms", "tpot_ms", "predicted_ttft_ms",
        "predicted_tpot_ms", "slo_met", "correct", "answer",
    }  # fmt: skip
    assert model.is_closed


def test_levels_follow_the_slos(
    model: FakeTextModel, requests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _run_json(requests, capsys)["requests"]
    levels = {row["app"]: row["level"] for row in rows}
    assert levels["notification"] == 1.0
    assert 1.0 > levels["setting"] > levels["function"] > levels["app"] > levels["contact"] == 0.2
    assert {row["app"] for row in rows if not row["slo_feasible"]} == {"intent", "contact"}


def test_the_summary_is_that_of_the_rows(
    model: FakeTextModel, requests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = _run_json(requests, capsys)
    rows = document["requests"]
    assert document["accuracy"] == sum(row["level"] >= 0.5 for row in rows) / 36
    assert document["accuracy"] == sum(row["correct"] for row in rows) / 36
    assert document["accuracy_full"] == 1.0
    assert document["slo_attainment"] == sum(row["slo_met"] for row in rows) / 36
    changes = sum(a["level"] != b["level"] for a, b in zip(rows, rows[1:], strict=False))
    assert document["switches"] == changes > 0
    assert document["switch_overhead"] == pytest.approx(0)
    assert document["memory"]["weight_bytes"] == (1 << 20) + (1 << 10)
    assert document["memory"]["rss_bytes"] > 0


def test_requests_already_answered_at_full_level_are_not_answered_twice(
    model: FakeTextModel, requests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run_json(requests, capsys)
    again = [level for _, level, max_tokens in model.asked[36:] if max_tokens > 1]
    assert again == [1.0] * 30


def test_without_a_terminal_the_table_is_plain_and_talk_goes_to_stderr(
    model: FakeTextModel, requests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--requests", str(requests)]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out
    assert len(re.findall(r"^\w+ +<\d+%,\d+%> ", out, re.MULTILINE)) == 36
    assert "no [red]idea[/red] \\x1b[31m" in out
    for word in ("SLO attainment", "accuracy", "level switches", "memory", "<80%,90%>"):
        assert word in out
    assert "12 were not expected to be met" in out
    assert "at most 15 s" in err


def test_on_a_terminal_the_table_grows(
    model: FakeTextModel,
    requests: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert main(["demo", "--requests", str(requests)]) == 0
    out = capsys.readouterr().out
    assert "1 of 36 requests answered" in out and "36 of 36 requests answered" in out


def test_what_cannot_be_answered_is_said_before_the_measurement(
    model: FakeTextModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = _rows()
    rows[7]["messages"][0]["content"] = "word " * CONTEXT
    requests = _write(tmp_path / "long.jsonl", rows)
    assert main(["demo", "--requests", str(requests)]) == 2
    err = capsys.readouterr().err
    assert "does not fit" in err and "at most 15 s" not in err
    assert model.asked == [] and model.is_closed


def test_a_model_with_one_level_has_no_switches(
    model: FakeTextModel, requests: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.levels = model.levels[-1:]
    document = _run_json(requests, capsys)
    assert (document["switches"], document["switch_overhead"]) == (0, 0.0)


def test_the_order_is_shuffled_and_fixed(requests: Path, tmp_path: Path) -> None:
    apps = [request.app for request in read_requests(requests)]
    assert apps == [request.app for request in read_requests(requests)]
    assert sorted(apps) == sorted([*APPS] * 6)
    assert apps != [row["app"] for row in _rows()]


def test_only_six_requests_of_an_app_are_asked(tmp_path: Path) -> None:
    path = _write(tmp_path / "many.jsonl", _rows() + _rows())
    assert len(read_requests(path)) == 36


@pytest.mark.parametrize(
    "change",
    [
        {"app": "game"},
        {"app": ["setting"]},
        {"answer": 3},
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": 1}]},
    ],
)
def test_malformed_requests_are_refused_with_their_line(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    rows = _rows()
    rows[2] = {**rows[2], **change}
    with pytest.raises(CorruptFileError, match="line 3"):
        read_requests(_write(tmp_path / "bad.jsonl", rows))


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]\n", b"[" * 100_000, b""])
def test_files_that_are_not_requests_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError):
        read_requests(path)


def test_a_missing_file_or_none_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jsonl", tmp_path, Path(os.devnull)):
        with pytest.raises(BundleNotFoundError, match="demo's requests"):
            read_requests(path)


@pytest.mark.parametrize(
    ("text", "same"),
    [("  Do  It.\n", "do it"), ("MAX!", "max"), ("7:30", "7:30"), ("straße", "STRASSE")],
)
def test_answers_are_compared_without_case_spacing_and_final_marks(text: str, same: str) -> None:
    assert normalise(text) == normalise(same)


def test_different_answers_stay_different() -> None:
    assert normalise("set_alarm(7)") != normalise("set_alarm(8)")
