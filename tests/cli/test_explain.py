"""`pliant explain` on a small bundle with a TLM of its own."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pliant.cli import main
from pliant.slo import LatencyModel, store
from pliant.tlm.install import install_tlm
from pliant.tlm.training.build import fresh_network
from pliant.tlm.training.export import write_tlm
from support.synthetic_latency import make_latency
from support.tiny_bundle import RATIOS, make_tiny_bundle

PROMPT = "Notifications:\n" + "the bus to the station is late again today\n" * 12 + "What is late?"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    made = make_tiny_bundle(folder / "tiny", context=1024)
    write_tlm(folder / "tlm.gguf", fresh_network(made))
    install_tlm(made.path, folder / "tlm.gguf")
    return made.path


@pytest.fixture(autouse=True)
def _calibrated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Latencies of another, slower machine."""

    def calibrated(*_: Any, **__: Any) -> LatencyModel:
        return make_latency(RATIOS, slowness=10)

    monkeypatch.setenv("PLIANT_CACHE", str(tmp_path))
    monkeypatch.setattr(store, "calibrate", calibrated)


def _explain(bundle: Path, *options: str) -> int:
    return main(["explain", PROMPT, "--bundle", str(bundle), *options])


def test_the_grid_the_choice_and_what_is_left_are_shown(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _explain(bundle, "--ttft", "0.5", "--tpot", "0.9", "--compress", "0.4") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "SLO        <50%,90%>: TTFT at most " in out
    rows = re.findall(r"^ *(0\.3|0\.5|1) +(\d+)% +[\d.]+ +(\S+)$", out, re.MULTILINE)
    assert [row[0] for row in rows] == ["0.3", "0.5", "1"]
    assert 99 <= sum(int(row[1]) for row in rows) <= 101
    assert [row[2].startswith("[") for row in rows].count(True) == 1
    assert all(row[2].strip("[]").endswith("*") for row in rows[:2])
    assert re.search(
        r"^choice     level [\d.]+ with (39|40)% of the prompt: TTFT ", out, re.MULTILINE
    )
    assert "why        the decision head's likeliest" in out
    left = out.partition("what is left of the prompt (")[2]
    assert left.startswith(tuple("0123456789")) and "What is late?" in left
    assert len(left) < 0.7 * len(PROMPT)


def test_on_a_terminal_what_went_is_struck_through(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("TTY_COMPATIBLE", "1")):
        monkeypatch.setenv(name, value)
    assert _explain(bundle, "--ttft", "0.5", "--compress", "0.4") == 0
    left = capsys.readouterr().out.partition("what is left of the prompt (")[2]
    assert "\x1b[2;9m" in left
    shown = re.sub(r"\x1b\[[\d;]*m", "", left).partition("\n")[2]
    assert shown.split() == PROMPT.split()


def test_json_has_every_pair(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _explain(bundle, "--ttft", "0.5", "--tpot", "60%", "--json", "--max-tokens", "9") == 0
    found = json.loads(capsys.readouterr().out)
    assert {(row["level"], row["prompt_ratio"]) for row in found["grid"]} == {
        (level, round(0.1 * tenth, 1)) for level in RATIOS for tenth in range(1, 11)
    }
    assert found["slo"] == {"ttft": 0.5, "tpot": 0.6, "ttft_ms": None, "tpot_ms": None}
    assert found["choice"] in found["grid"] and found["choice"]["feasible"]
    for name in ("level_probabilities", "prompt_ratio_probabilities"):
        assert sum(found[name].values()) == pytest.approx(1)
    assert found["shortened_tokens"] <= found["choice"]["prompt_tokens"] + 1
    assert found["messages"][-1]["content"].endswith("What is late?")
    for row in found["grid"]:
        ttft_ms = row["predicted_ttft_ms"] * (1 + found["margins"]["ttft"])
        tpot_ms = row["predicted_tpot_ms"] * (1 + found["margins"]["tpot"])
        limits = found["limits"]
        fits = ttft_ms <= limits["ttft_ms"] and tpot_ms <= limits["tpot_ms"]
        assert row["feasible"] == fits


def test_without_an_slo_there_is_nothing_to_give_up(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _explain(bundle, "--system", "Be kind.") == 0
    out = capsys.readouterr().out
    assert "TTFT without a limit, TPOT without a limit" in out
    assert "choice     level 1 with 100% of the prompt" in out and "why        no limit" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", " ", "--ttft", "0.4"], "no prompt"),
        (["explain", "hello", "--ttft", "fast"], "ttft is 'fast'"),
        (["explain", "hello", "--compress", "2"], "--compress is '2'"),
        (["explain", "hello", "--bundle", "/nowhere"], "/nowhere"),
    ],
)
def test_bad_options_are_one_line_errors(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and err.count("\n") == 1
