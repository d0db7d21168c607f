"""The report's JSON: what is written is read again, and nothing else is."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from pliant.elastify.report.data import Report, read_report
from pliant.errors import CorruptFileError
from support.reports import any_report, small_report


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(any_report())
def test_what_is_written_is_read_again(report: Report) -> None:
    assert Report.from_text(report.to_text()) == report


def _changed(**changes: Any) -> str:
    return json.dumps(json.loads(small_report().to_text()) | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a report"),
        (_changed(format="other"), "not a report"),
        (_changed(version=2), "version 2; this pliant reads 1"),
        (_changed(version=True), "version True"),
        (_changed(extra=1), "unknown or missing keys: extra"),
        (_changed(name=3), r"report\.name is 3, not a text"),
        (_changed(notes="text"), r"report\.notes is 'text', not a list"),
        (_changed(facts=[]), r"report\.facts is \[\], not an object"),
        (_changed(facts={"a": None}), r"report\.facts\.a is None, not a text"),
        (_changed(perplexity_tokens=True), "is True, not a whole number"),
        (_changed(perplexity_tokens=1.5), "is 1.5, not a whole number"),
        (_changed(times=[{"step": "x"}]), r"report\.times\[0\]: unknown or missing keys: seconds"),
        (_changed(times=[{"step": "x", "seconds": float("nan")}]), "nan, not a finite number"),
        (_changed(times=[{"step": "x", "seconds": 10**400}]), "inf, not a finite number"),
    ],
)
def test_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(CorruptFileError, match=message):
        Report.from_text(text)


def test_whole_numbers_are_numbers() -> None:
    report = Report.from_text(_changed(times=[{"step": "x", "seconds": 2}]))
    assert type(report.times[0].seconds) is float


def test_files_are_read_with_their_name_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(small_report().to_text(), encoding="utf-8")
    assert read_report(path) == small_report()
    path.write_bytes(b"\xff")
    with pytest.raises(CorruptFileError, match=r"cannot read .*report\.json"):
        read_report(path)
    with pytest.raises(CorruptFileError, match="nowhere"):
        read_report(tmp_path / "nowhere")
